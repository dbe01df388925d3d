"""Real bugs: commits of a repository whose tests fail without them."""
