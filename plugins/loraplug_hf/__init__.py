"""The transformers model loader."""

from collections.abc import Sequence

from loraplug import ModelLoader, hookimpl
from loraplug_hf.loader import TransformersModel


@hookimpl
def loraplug_model_loaders() -> Sequence[type[ModelLoader]]:
    """The one loader."""
    return [TransformersModel]
