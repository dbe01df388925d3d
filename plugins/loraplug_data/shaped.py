"""Options that all sources of this package share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from attrs import field, frozen, validators

from loraplug import DatasetSource, Doc, InputError, Problem, Run, held
from loraplug_data.renaming import flat, new_names, renamed

if TYPE_CHECKING:
    from datasets import Dataset


def reaches_formatter(source: DatasetSource, recipe: Any) -> bool:
    """Whether the formatter is given the rows of a source with their columns: no transform changes them first, and no
    other component reads them, such as `decontaminate`, `against` whose rows others are held.
    """
    if any(transform.for_validation for transform in recipe.transforms):
        return False
    return all(source is not one for part in (recipe.dataset, *recipe.transforms) for one in held(part))


@frozen
class Shaped(DatasetSource):
    """Options that all sources of this package share."""

    place: ClassVar[str] = "dataset.path"  # the key that names the data

    rename: Annotated[
        dict[str, Any],
        Doc(
            'columns to rename, `{ question = "instruction" }`, and keys inside them, `{ "messages.text" = "content" }`'
        ),
    ] = field(factory=dict, kw_only=True, converter=flat, validator=new_names)
    limit: Annotated[int | None, Doc("use only the first so many rows")] = field(
        default=None, kw_only=True, validator=validators.optional(validators.ge(1))
    )

    def shaped(self, rows: Dataset, what: object) -> Dataset:
        """Rows cut to the limit and renamed; `what` names the data in errors."""
        if self.limit is not None and self.limit < len(rows):
            rows = rows.select(range(self.limit))
        return renamed(rows, self.rename, f"{what}: rename") if self.rename else rows

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:  # noqa: ARG002
        """Report files that cannot be read, and rows that the formatter does not recognise."""
        yield from self.recognised(recipe, self.first_columns)

    def recognised(self, recipe: Any, columns_of: Callable[[], list[str] | None]) -> Iterator[Problem]:
        """What the formatter says of the columns of the first rows, where it is given them as they are."""
        try:
            columns = columns_of()
        except InputError as error:
            yield Problem.of(error, self.place)
            return
        if columns is not None and reaches_formatter(self, recipe):
            named = [self.rename.get(name, name) for name in columns]
            recipe.formatter.recognise(columns=named, schema=recipe.trainer.consumes)

    def first_columns(self) -> list[str] | None:
        """The columns that the first rows have; None where only reading all tells."""
        return None
