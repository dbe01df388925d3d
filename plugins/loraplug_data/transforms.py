"""General transforms: rename columns, shuffle, sample."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from attrs import field, frozen, validators

from loraplug import Doc, InputError, Run, Transform
from loraplug_data.renaming import flat, new_names, renamed

if TYPE_CHECKING:
    from datasets import Dataset

Seed = Annotated[int | None, Doc("random seed; default: the recipe's seed")]


@frozen
class Rename(Transform):
    """Renames columns, and keys inside them."""

    name = "rename"
    columns: Annotated[
        dict[str, Any],
        Doc(
            'old names to new, `{ question = "instruction" }`, and keys inside columns, `{ "messages.text" = "content" '
            "}`"
        ),
    ] = field(converter=flat, validator=new_names)

    def apply(self, rows: Dataset, run: Run) -> Dataset:  # noqa: ARG002
        """The same rows.

        Raises:
            InputError: a column is not there, or the new name is taken.
        """
        return renamed(rows, self.columns, "dataset.transform rename: columns")


@frozen
class Shuffle(Transform):
    """Shuffles the rows."""

    name = "shuffle"
    for_validation: ClassVar[bool] = False
    seed: Seed = None

    def apply(self, rows: Dataset, run: Run) -> Dataset:
        """All rows; the same seed gives the same order."""
        order = list(range(len(rows)))
        random.Random(run.seed if self.seed is None else self.seed).shuffle(order)  # noqa: S311 - no secret
        return rows.select(order)


@frozen
class Sample(Transform):
    """Samples rows at random, keeping their order; set a number or a share."""

    name = "sample"
    for_validation: ClassVar[bool] = False
    rows: Annotated[int | None, Doc("number of rows")] = field(
        default=None, validator=validators.optional(validators.ge(1))
    )
    fraction: Annotated[float | None, Doc("share of the rows, between 0 and 1")] = field(
        default=None, validator=validators.optional([validators.gt(0), validators.lt(1)])
    )
    seed: Seed = None

    def __attrs_post_init__(self) -> None:
        if (self.rows is None) == (self.fraction is None):
            given = "has none" if self.rows is None else "has both"
            raise InputError(f"needs exactly one of rows and fraction; {given}")

    def apply(self, rows: Dataset, run: Run) -> Dataset:
        """Some of the rows; of a share, at least one.

        Raises:
            InputError: there are fewer rows than are asked for.
        """
        count = self.rows if self.rows is not None else max(1, round((self.fraction or 0) * len(rows)))
        if count > len(rows):
            raise InputError(
                f"{count} rows are requested, but there are only {len(rows)}",
                where="dataset.transform sample: rows",
                todo="request fewer, or remove the transform",
            )
        draw = random.Random(run.seed if self.seed is None else self.seed)  # noqa: S311 - no secret
        return rows.select(sorted(draw.sample(range(len(rows)), count)))
