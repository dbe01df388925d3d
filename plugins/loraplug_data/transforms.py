"""Transforms that every data set can do with: other names for columns, another order, a part of the rows."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from attrs import field, frozen, validators

from loraplug import Doc, InputError, Run, Transform
from loraplug_data.renaming import flat, new_names, renamed

if TYPE_CHECKING:
    from datasets import Dataset

Seed = Annotated[int | None, Doc("seeds what is drawn; where not set, the recipe's seed")]


@frozen
class Rename(Transform):
    """Columns under other names, and keys in them; whatever source the rows are from."""

    name = "rename"
    columns: Annotated[
        dict[str, Any],
        Doc('old names to new, `{ question = "instruction" }`, and keys in columns, `{ "messages.text" = "content" }`'),
    ] = field(converter=flat, validator=new_names)

    def apply(self, rows: Dataset, run: Run) -> Dataset:  # noqa: ARG002
        """The same rows.

        Raises:
            InputError: a column is not there, or the new name is taken.
        """
        return renamed(rows, self.columns, "dataset.transform rename: columns")


@frozen
class Shuffle(Transform):
    """The same rows in an order drawn at random, so that a `sample`, or whoever reads them, meets all kinds early."""

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
    """Rows drawn at random, in the order they had; say how many or what share."""

    name = "sample"
    for_validation: ClassVar[bool] = False
    rows: Annotated[int | None, Doc("how many rows to take")] = field(
        default=None, validator=validators.optional(validators.ge(1))
    )
    fraction: Annotated[float | None, Doc("the share of the rows to take, between 0 and 1")] = field(
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
            raise InputError(f"{count} rows are asked for, and there are {len(rows)}",
                             where="dataset.transform sample: rows", todo="ask for fewer, or take it out")  # fmt: skip
        draw = random.Random(run.seed if self.seed is None else self.seed)  # noqa: S311 - no secret
        return rows.select(sorted(draw.sample(range(len(rows)), count)))
