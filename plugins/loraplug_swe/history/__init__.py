"""Bugs that were there: commits of a repository that mend what their tests notice."""
