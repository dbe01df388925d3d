"""LoRA adapters of anyone's making, looked at before they are trusted and put on a model whole.

It knows nothing of recipes and runs; `ModelReference.load` is the way to it for plugins.
"""
