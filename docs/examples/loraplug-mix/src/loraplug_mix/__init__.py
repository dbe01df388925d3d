"""A loraplug plugin: the dataset source `mix`, which is made of other sources."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from attrs import field, frozen, validators

from loraplug import DatasetSource, Doc, InputError, Run, hookimpl

if TYPE_CHECKING:
    from datasets import Dataset

LORAPLUG_API = "2.0"


@frozen
class MixSource(DatasetSource):
    """Rows of several sources, drawn by their shares until one of them has no more."""

    name = "mix"
    sources: Annotated[tuple[DatasetSource, ...], Doc("where the rows come from, each a table with `use`")] = field(
        validator=validators.min_len(2)
    )
    shares: Annotated[tuple[float, ...] | None, Doc("how often each comes next; even where not set")] = None

    def __attrs_post_init__(self) -> None:
        if self.shares is not None and len(self.shares) != len(self.sources):
            raise InputError(f"{len(self.shares)} shares for {len(self.sources)} sources")
        if self.shares is not None and min(self.shares) <= 0:
            raise InputError("shares must be above 0")

    def load(self, run: Run) -> Dataset:
        """Rows in an order that the run's seed draws.

        Raises:
            InputError: a source cannot be read, or the columns of two sources differ.
        """
        from datasets import concatenate_datasets

        parts = [source.load(run=run) for source in self.sources]
        for index, part in enumerate(parts):
            if part.features != parts[0].features:
                columns = f"{', '.join(part.column_names)}, not {', '.join(parts[0].column_names)}"
                raise InputError(f"has the columns {columns}, or their types differ", where=f"dataset.sources[{index}]",
                                 todo="rename its columns, or leave it out")  # fmt: skip
        begins = [sum(map(len, parts[:index])) for index in range(len(parts))]
        draw = random.Random(run.seed)  # noqa: S311 - no secret
        taken, order = [0] * len(parts), list[int]()
        while True:
            (index,) = draw.choices(range(len(parts)), self.shares or [1] * len(parts))
            if taken[index] == len(parts[index]):
                break
            order.append(begins[index] + taken[index])
            taken[index] += 1
        counts = zip(self.sources, taken, parts, strict=True)
        run.say("mix: " + ", ".join(f"{count} of {len(part)} rows of {source.name}" for source, count, part in counts))
        return concatenate_datasets(parts).select(order)


@hookimpl
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:
    """Bring `mix`."""
    return [MixSource]
