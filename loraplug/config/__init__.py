"""TOML tables into attrs objects: laid over each other, structured strictly, every problem found in one go.

It knows nothing of models, plugins and runs.
"""
