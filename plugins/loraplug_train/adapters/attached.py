"""Attaching a recipe's adapter to a loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from loraplug_train.trainer import EngineTrainer


def attached(options: EngineTrainer, model: PreTrainedModel) -> tuple[Any, Mapping[str, str]]:
    """Attach `[trainer.lora]`, or the adapter given in its place; also returns why some layers were left out.

    Raises:
        InputError: the options match no layer of this model, or cannot be applied to it.
    """
    if options.adapter is not None:
        return options.adapter.attach(model=model), {}
    adapted, targets = options.lora.attach(model)
    return adapted, targets.left_out


def is_peft(model: Any) -> bool:
    """Whether a model is a `PeftModel`, whose adapters can be disabled."""
    return hasattr(model, "peft_config")
