"""`select`: rows for which an expression holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from attrs import frozen

from loraplug import Doc, InputError, Run, Transform, iter_rows, row_id
from loraplug_data.caching import Fallen, without_fallen
from loraplug_data.expression import Expression

if TYPE_CHECKING:
    from datasets import Dataset

Report = Annotated[Path | None, Doc("a .jsonl file that lists every removed row, with the reason")]


@frozen
class Select(Transform):
    """Rows for which an expression over their columns holds, such as `len(messages) > 2 and language == "python"`."""

    name = "select"
    for_validation: ClassVar[bool] = False
    where: Annotated[
        str,
        Doc(
            "keeps rows for which this is true: columns by name, messages[0].role, and or not, comparisons, in, "
            "arithmetic, len(x), words(x), text(x), roles(messages), lower(x), upper(x), startswith(x, y), "
            "endswith(x, y)"
        ),
    ]
    report: Report = None

    def __attrs_post_init__(self) -> None:
        Expression(self.where)

    def apply(self, rows: Dataset, run: Run) -> Dataset:
        """The rows for which it holds, in their order.

        Raises:
            InputError: it names a column that is not there, or its values do not go together, naming the row.
        """
        expression = Expression(self.where)
        expression.check_names(rows.column_names, "dataset.transform select: where")

        def find() -> Iterator[Fallen]:
            with run.progress("select", len(rows)) as bar:
                for index, row in enumerate(iter_rows(rows)):
                    try:
                        holds = expression.of(row)
                    except (TypeError, ValueError, ArithmeticError) as error:
                        where = f"dataset.transform select: where, {row_id(row, index)}"
                        todo = "guard it with a condition, such as `x is not None and …`"
                        raise InputError(f"cannot be evaluated: {error}", where=where, todo=todo) from None
                    if not holds:
                        yield Fallen(index, f"not ({self.where})")
                    bar.advance()

        return without_fallen(rows, self, run, find, self.report)
