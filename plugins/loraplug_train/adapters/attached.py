"""A model with what a recipe wants trained in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from loraplug_train.trainer import EngineTrainer


def attached(options: EngineTrainer, model: PreTrainedModel) -> tuple[Any, Mapping[str, str]]:
    """By `[trainer.lora]`, or by the adapter that stands in its place; and why layers that might have one have none.

    Raises:
        InputError: the options mean nothing on this model.
    """
    if (lora := options.lora_options) is not None:
        adapted, targets = lora.put_on(model)
        return adapted, targets.left_out
    assert options.adapter is not None  # noqa: S101 - for the type checker
    return options.adapter.attach(model=model), {}


def is_peft(model: Any) -> bool:
    """Whether a model has adapters of peft's in it, which can be switched off."""
    return hasattr(model, "peft_config")
