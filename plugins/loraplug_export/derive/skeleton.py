"""A model with shapes but next to no memory, to attach adapters to if the base's values do not matter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loraplug_export.plan import empty_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def skeleton(base: Path) -> PreTrainedModel:
    """The base's class; every parameter is one float32 zero, expanded to the parameter's shape.

    Not on the `meta` device: peft moves an adapter to its layer's device, and its values would be lost.

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
