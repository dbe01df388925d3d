"""A loraplug plugin: the transform `dedup`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from attrs import field, frozen, validators

from loraplug import Doc, InputError, Run, Transform, hookimpl, iter_rows

if TYPE_CHECKING:
    from datasets import Dataset

LORAPLUG_API = "2.0"


@frozen
class Dedup(Transform):
    """Leaves out rows that say nearly the same as an earlier one."""

    name = "dedup"
    for_validation: ClassVar[bool] = False
    column: Annotated[str, Doc("the column that is compared")]
    near: Annotated[float, Doc("the share of words in common from which on two rows are the same")] = field(
        default=0.9, validator=[validators.gt(0), validators.le(1)]
    )

    def apply(self, rows: Dataset, run: Run) -> Dataset:
        """The rows without their near-duplicates, in their order.

        Raises:
            InputError: there is no such column.
        """
        if self.column not in rows.column_names:
            todo = f"columns: {', '.join(rows.column_names)}"
            raise InputError(f'there is no column "{self.column}"', where="dataset.transform dedup: column", todo=todo)
        kept: list[tuple[int, frozenset[str]]] = []
        for index, row in enumerate(iter_rows(rows)):
            words = _words(row[self.column])
            if not any(self._same(words, other) for _, other in kept):
                kept.append((index, words))
        return rows.select([index for index, _ in kept])

    def _same(self, one: frozenset[str], other: frozenset[str]) -> bool:
        both = len(one | other)
        return both == 0 or len(one & other) / both >= self.near


def _words(value: object) -> frozenset[str]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return frozenset(re.findall(r"\w+", text.casefold()))


@hookimpl
def loraplug_transforms() -> Sequence[type[Transform]]:
    """Bring `dedup`."""
    return [Dedup]
