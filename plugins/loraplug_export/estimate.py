"""How many bytes exporters will write, about, by what files tell of the base."""

from __future__ import annotations

from math import prod
from typing import Any

from loraplug import BaseFacts, Exporter, Run
from loraplug_export.choices import TypeName

_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1}
_BITS: dict[TypeName, float] = {"f16": 16, "bf16": 16, "q8_0": 8.5, "q4_k_m": 5.0}


def base_bytes(facts: BaseFacts | None) -> int:
    """Of the base's weights; a GGUF file is taken as fp32, as it is dequantised. 0 where nothing is known."""
    if facts is None:
        return 0
    if facts.is_gguf:
        return 4 * facts.parameters
    return sum(prod(shape) * _BYTES.get(kind, 1) for kind, shape in facts.weights.values())


def gguf_bytes(exporter: Exporter, run: Run, recipe: Any, kind: TypeName) -> int:
    """Of a GGUF file of this type, with the merged model beside it where none is made before."""
    merged = 0 if before(recipe, exporter, "merged") else base_bytes(recipe.model.facts(run=run))
    return gguf_file_bytes(run, recipe, kind) + merged


def gguf_file_bytes(run: Run, recipe: Any, kind: TypeName) -> int:
    """Of the base, or a model as large, as a GGUF file of this type; 0 where nothing is known of it."""
    facts = recipe.model.facts(run=run)
    return int(facts.parameters * _BITS[kind] / 8) if facts is not None else 0


def before(recipe: Any, exporter: Exporter, name: str) -> bool:
    """Whether an exporter of that name comes before this one."""
    names = [one.name for one in recipe.exporter]
    return name in names[: next(at for at, one in enumerate(recipe.exporter) if one is exporter)]
