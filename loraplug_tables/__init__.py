"""TOML tables into attrs objects: laid over each other, structured strictly, every problem found in one go.

A library below the core. It knows nothing of models, plugins and runs; plugins use what `loraplug` passes on of it.
"""
