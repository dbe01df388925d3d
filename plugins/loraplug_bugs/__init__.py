"""Bugs made from a repository of one's own, each one proved by its tests."""
