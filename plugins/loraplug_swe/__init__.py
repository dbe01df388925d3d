"""Placeholder docstring until its components land."""
