"""Recipes: from TOML files to components and back to a lock."""
