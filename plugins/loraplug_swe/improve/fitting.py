"""Which rows the training of a round can use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve

from loraplug import InputError, Reporter

if TYPE_CHECKING:
    from loraplug import Pipeline

    Row = Mapping[str, Any]


def fitting(pipeline: Pipeline) -> Callable[[Sequence[Row]], list[Row]]:
    """What gives, of some rows and in their order, those that the pipeline's formatter encodes for its trainer.

    A formatter stops the run where too many rows are too long. Rows that were drawn or answered here are not the
    user's: one that is too long is left out. The formatter is silent meanwhile, and the tokenizer is loaded once.
    """
    from datasets import Dataset

    recipe = pipeline.recipe
    silent = evolve(pipeline.run, reporter=Reporter())
    tokenizer = recipe.model.load_tokenizer(run=silent)

    def lost(some: Sequence[Row]) -> bool:
        try:
            encoded = recipe.formatter.encode(
                rows=Dataset.from_list([*map(dict, some)]), tokenizer=tokenizer, run=silent,
                schema=recipe.trainer.consumes,
            )  # fmt: skip
        except InputError:
            return True
        return bool(encoded.report.get("lost")) or not len(encoded.dataset)

    def fit(rows: Sequence[Row]) -> list[Row]:
        if not rows or not lost(rows):
            return list(rows)
        return [row for row in rows if not lost([row])]

    return fit
