"""Agents' traces as conversations: which format they are of, how each is read, and which steps are not trained."""
