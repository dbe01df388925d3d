"""An output layer with adapters of its own, which trl refuses: its fused head multiplies with the bare weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy

_IGNORED = -100


def is_adapted(model: Any) -> bool:
    """Whether adapters were put on the output layer of a `PeftModel`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(model.get_output_embeddings(), BaseTunerLayer)


@contextmanager
def shown_bare(model: Any) -> Iterator[None]:
    """While open, the output layer is told of without its adapters: for trl's trainer, which then takes the model."""
    if not is_adapted(model):
        yield
        return
    base = model.get_base_model()
    base.get_output_embeddings = base.get_output_embeddings().get_base_layer
    try:
        yield
    finally:
        del base.get_output_embeddings


def log_probabilities(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Of the labels, in float32, (1, tokens - 1), and 0 where there is none; as trl's fused head gives them.

    Logits are made where a label is, all at once.

    Args:
        inputs: one row (or several end to end) as the collator gives them, `labels` of shape (1, tokens).
    """
    given = {name: value for name, value in inputs.items() if name != "labels"}
    labels = inputs["labels"][0, 1:]
    kept = (labels != _IGNORED).nonzero().flatten()
    asked = kept if len(kept) else kept.new_zeros(1)  # with shards every call must reach the output layer
    logits = model(**given, use_cache=False, logits_to_keep=asked).logits[0].float()
    found = -cross_entropy(logits, labels[asked], ignore_index=_IGNORED, reduction="none")
    return torch.zeros_like(labels, dtype=torch.float32).index_put((asked,), found)[None]
