"""What the sampler needs of transformers that differs between its versions or is private, held by contract tests."""

from __future__ import annotations

import inspect
from typing import Any


def attention_of(model: Any) -> str:
    """The name of the attention that a model's layers take from transformers' table."""
    return str(model.config.get_text_config()._attn_implementation)


def base_of(model: Any) -> Any:
    """The model of transformers inside a `PeftModel`, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def with_cache(model: Any, cache: Any) -> dict[str, Any]:
    """The arguments by which a forward pass goes on from a cache: `cache` from transformers 5.24 on."""
    known = inspect.signature(base_of(model).forward).parameters
    return {"cache" if "cache" in known else "past_key_values": cache, "use_cache": True, "logits_to_keep": 1}


def cache_of(out: Any) -> Any:
    """The cache that a forward pass leaves; None for a model that has none, or one whose rows cannot be repeated.

    xLSTM's holds the states of one batch, and has nothing to choose rows with.
    """
    found = getattr(out, "cache", None)
    found = getattr(out, "past_key_values", None) if found is None else found
    return found if hasattr(found, "reorder_cache") else None
