"""How many bytes exports to GGUF will write, about, by what files tell of the base."""

from __future__ import annotations

from typing import Any

from loraplug import Exporter, Run
from loraplug_export import base_bytes, comes_before
from loraplug_gguf.choices import CONVERTED, TypeName, bits


def gguf_bytes(exporter: Exporter, run: Run, recipe: Any, kind: TypeName) -> int:
    """Of a GGUF file of this type, with what it is made of: the merged model where none is made before."""
    merged = 0 if comes_before(recipe, exporter, "merged") else base_bytes(recipe.model.facts(run=run))
    return gguf_file_bytes(run, recipe, kind) + merged


def gguf_file_bytes(run: Run, recipe: Any, kind: TypeName) -> int:
    """Of the base, or a model as large, as a GGUF file of this type and what that is quantised from; 0 if unknown."""
    facts = recipe.model.facts(run=run)
    if facts is None:
        return 0
    between = 0 if kind in CONVERTED else base_bytes(facts)
    return int(facts.parameters * bits(kind) / 8) + between
