"""Merges TOML tables and structures them strictly into attrs objects, reporting all problems at once.

It knows nothing of models, plugins and runs.
"""
