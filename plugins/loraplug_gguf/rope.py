"""YaRN's scale of the attention (arXiv:2309.00071), which llama.cpp's converter leaves out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def attention_scale(rope: Mapping[str, Any], context: int) -> float | None:
    """What llama.cpp must be told, which multiplies by the paper's own 1 + 0.1 ln(factor) whatever the file says.

    Args:
        rope: a config's rotary entries.
        context: the most positions.

    Returns:
        transformers' factor of cos and sin over the paper's; None where they are the same, or there is no YaRN.
    """
    if rope.get("rope_type") != "yarn":
        return None
    original = rope.get("original_max_position_embeddings") or context
    factor = float(rope.get("factor") or context / original)
    scale = _attention_factor(rope, factor) / _yarn(factor)
    return None if math.isclose(scale, 1.0) else scale


def _yarn(factor: float, mscale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    """What cos and sin are multiplied by in transformers."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return _yarn(factor, rope["mscale"]) / _yarn(factor, rope["mscale_all_dim"])
    return _yarn(factor)
