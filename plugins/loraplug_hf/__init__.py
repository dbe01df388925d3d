"""The transformers model loader."""

from collections.abc import Sequence
from pathlib import Path

from loraplug import Diagnostic, ModelLoader, hookimpl
from loraplug_hf.loader import TransformersModel
from loraplug_hf.login import hub_login

__all__ = ["TransformersModel", "gguf_file"]


def gguf_file(id: str) -> Path:  # noqa: A002 - the recipe's own word
    """The path of a `model.id` that ends in .gguf: a path, or `package:NAME/FILE.gguf`.

    Raises:
        InputError: no such package or file.
    """
    from loraplug_hf.places import gguf_file

    return gguf_file(id)


@hookimpl
def loraplug_model_loaders() -> Sequence[type[ModelLoader]]:
    """The model loader `transformers`."""
    return [TransformersModel]


@hookimpl
def loraplug_diagnostics() -> Sequence[Diagnostic]:
    """The hub's address and login, for `loraplug doctor`."""
    return [hub_login]
