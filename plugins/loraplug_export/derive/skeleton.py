"""A model that has shapes and next to no memory, to put adapters on where the base's values do not matter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loraplug_export.plan import empty_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def skeleton(base: Path) -> PreTrainedModel:
    """The base's class, every parameter a single fp32 zero seen in the parameter's shape.

    Not on the `meta` device: peft moves an adapter to where its layer's weight is, and its values would be gone.

    Raises:
        InputError: as `empty_model`.
    """
    import torch

    model = empty_model(base)
    zero = torch.zeros(())
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(zero.expand(parameter.shape), requires_grad=False))
    return model
