"""The transform `my-part`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, ClassVar

from attrs import field, frozen, validators

from loraplug import Doc, Run, Transform, iter_rows

if TYPE_CHECKING:
    from datasets import Dataset


@frozen
class MyPart(Transform):
    """Leaves out rows that are too long to be worth their tokens."""

    name = "my-part"
    for_validation: ClassVar[bool] = False  # rows held out in a file of their own stay as they are
    max_characters: Annotated[int, Doc("leave out rows of more characters, written as JSON")] = field(
        default=20_000, validator=validators.ge(1)
    )

    def apply(self, rows: Dataset, run: Run) -> Dataset:
        """The rows that are short enough, in their order; loraplug tells how many are left."""
        lengths = [len(json.dumps(row, ensure_ascii=False, default=str)) for row in iter_rows(rows)]
        if lengths:
            run.say(f"my-part: the longest row has {max(lengths)} characters")
        return rows.select([index for index, length in enumerate(lengths) if length <= self.max_characters])
