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
    if (lora := options.lora_options) is not None:
        adapted, targets = lora.put_on(model)
        return adapted, targets.left_out
    assert options.adapter is not None  # noqa: S101 - for the type checker
    return options.adapter.attach(model=model), {}


def is_peft(model: Any) -> bool:
    """Whether a model is a `PeftModel`, whose adapters can be disabled."""
    return hasattr(model, "peft_config")
