"""Estimates the bytes that exporters will write, from the base's files."""

from __future__ import annotations

from math import prod
from typing import Any

from loraplug import BaseFacts, Exporter

_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1}


def base_bytes(facts: BaseFacts | None) -> int:
    """Bytes of the base's weights; of a GGUF file in float32, as it is dequantized. 0 if unknown."""
    if facts is None:
        return 0
    if facts.is_gguf:
        return 4 * facts.parameters
    return sum(prod(shape) * _BYTES.get(kind, 1) for kind, shape in facts.weights.values())


def comes_before(recipe: Any, exporter: Exporter, name: str) -> bool:
    """Whether an exporter of that name comes before this one."""
    names = [one.name for one in recipe.exporter]
    return name in names[: next(at for at, one in enumerate(recipe.exporter) if one is exporter)]
