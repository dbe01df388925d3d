"""Which rows the training of a round can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve

from loraplug import InputError, Reporter

if TYPE_CHECKING:
    from loraplug import Pipeline

    Row = Mapping[str, Any]


def fitting(pipeline: Pipeline, rows: Sequence[Row]) -> list[Row]:
    """Those rows, in their order, that the pipeline's formatter encodes for its trainer; it is silent meanwhile.

    A formatter stops the run where too many rows are too long. Rows that were drawn or answered here are not the
    user's: one that is too long is left out.
    """
    from datasets import Dataset

    recipe = pipeline.recipe
    tokenizer = recipe.model.load_tokenizer(run=pipeline.run)
    silent = evolve(pipeline.run, reporter=Reporter())

    def lost(some: Sequence[Row]) -> bool:
        try:
            encoded = recipe.formatter.encode(
                rows=Dataset.from_list([*map(dict, some)]), tokenizer=tokenizer, run=silent,
                schema=recipe.trainer.consumes,
            )  # fmt: skip
        except InputError:
            return True
        return bool(encoded.report.get("lost")) or not len(encoded.dataset)

    if not rows or not lost(rows):
        return list(rows)
    return [row for row in rows if not lost([row])]
