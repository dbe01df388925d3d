"""LoRA adapters of anyone's making, looked at before they are trusted and put on a model whole.

A library below the core, whose `Opened.load` is the way to it for plugins. It knows nothing of recipes and runs.
"""
