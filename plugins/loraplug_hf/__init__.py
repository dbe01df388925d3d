"""The transformers model loader."""

from collections.abc import Sequence

from loraplug import Diagnostic, ModelLoader, hookimpl
from loraplug_hf.loader import TransformersModel
from loraplug_hf.login import hub_login


@hookimpl
def loraplug_model_loaders() -> Sequence[type[ModelLoader]]:
    """The one loader."""
    return [TransformersModel]


@hookimpl
def loraplug_diagnostics() -> Sequence[Diagnostic]:
    """Whether the hub can be reached with a token."""
    return [hub_login]
