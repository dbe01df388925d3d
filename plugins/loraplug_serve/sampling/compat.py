"""What the sampler needs from transformers that is private or differs between versions; contract tests check it."""

from __future__ import annotations

import inspect
from typing import Any


def attention_of(model: Any) -> str:
    """The name of a model's attention implementation."""
    return str(model.config.get_text_config()._attn_implementation)


def base_of(model: Any) -> Any:
    """The transformers model inside a `PeftModel`, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def with_cache(model: Any, cache: Any) -> dict[str, Any]:
    """The arguments with which a forward pass continues from a cache: `cache` since transformers 5.24."""
    known = inspect.signature(base_of(model).forward).parameters
    return {"cache" if "cache" in known else "past_key_values": cache, "use_cache": True, "logits_to_keep": 1}


def cache_of(out: Any) -> Any:
    """The cache that a forward pass leaves; None for a model that has none, or one whose rows cannot be repeated.

    xLSTM's holds the states of one batch, and has nothing to choose rows with.
    """
    found = getattr(out, "cache", None)
    found = getattr(out, "past_key_values", None) if found is None else found
    return found if hasattr(found, "reorder_cache") else None
