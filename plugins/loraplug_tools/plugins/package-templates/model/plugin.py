"""A loraplug plugin: see `part.py`."""

from collections.abc import Sequence

from loraplug import ModelLoader, hookimpl
from my_package.part import MyPart

LORAPLUG_API = "2.0"


@hookimpl
def loraplug_model_loaders() -> Sequence[type[ModelLoader]]:
    """Provide `my-part`."""
    return [MyPart]
