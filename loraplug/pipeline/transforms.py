"""Rows through the transforms of `[[dataset.transform]]`, counted on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from loraplug.context import Run
from loraplug.errors import InputError, LoraplugError
from loraplug.plugin.components import Transform

if TYPE_CHECKING:
    from datasets import Dataset

Around = Callable[[Transform], AbstractContextManager[None]]


def _plainly(_: Transform) -> AbstractContextManager[None]:
    return nullcontext()


def transformed(
    rows: Dataset, transforms: Iterable[Transform], run: Run, around: Around = _plainly, place: str = "dataset"
) -> Dataset:
    """The rows that come out of the last transform; how many went into and came out of each is told.

    Args:
        around: what surrounds each, such as the telling of observers.
        place: the table of the recipe that the transforms stand in.

    Raises:
        InputError: one left no row.
        LoraplugError: one gave something other than a data set.
    """
    for index, part in enumerate(transforms):
        with around(part):
            made = part.apply(rows=rows, run=run)
            where = f"{place}.transform[{index}] {part.name}"
            if not hasattr(made, "column_names"):
                raise LoraplugError(f"returned {type(made).__name__} in place of a data set", where=where,
                                    todo="its apply() must return a datasets.Dataset")  # fmt: skip
            if len(made) == 0:
                raise InputError(f"kept none of {len(rows)} rows", where=where, todo="relax its options, or remove it")
            same = len(made) == len(rows)
            run.say(f"{part.name}: {len(rows)} rows" if same else f"{part.name}: {len(made)} of {len(rows)} rows")
            run.emit("transformed", component=part.name, place=place, rows=len(rows), left=len(made))
            rows = made
    return rows
