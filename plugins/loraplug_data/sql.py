"""The source `sql`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen, validators

from loraplug import Doc, Run
from loraplug_data.databases import database, query_columns, query_rows
from loraplug_data.shaped import Shaped
from loraplug_data.tables import digest, rows_to_dataset

if TYPE_CHECKING:
    from datasets import Dataset


@frozen
class SqlSource(Shaped):
    """Rows of an SQLite database, by a query; the database is opened read-only."""

    name = "sql"
    place = "dataset.url"
    url: Annotated[str, Doc("the database: a path, or sqlite:///absolute/path", is_path=True)]
    query: Annotated[str, Doc("a SELECT; without ORDER BY the order of the rows is undefined")] = field(
        validator=validators.min_len(1)
    )

    def load(self, run: Run) -> Dataset:
        """The query's rows, as a table on disk.

        Raises:
            InputError: there is no such database, or it does not understand the query.
        """
        path = database(self.url)
        log = path.with_name(f"{path.name}-wal")  # what was written and is not in the file yet
        beside = digest(log).hex() if log.is_file() else ""

        def read(file: Path) -> Iterator[dict[str, Any]]:
            return query_rows(file, self.query)

        return self.shaped(rows_to_dataset(read, [path], f"sql {self.query} {beside}", run), path)

    def first_columns(self) -> list[str]:
        """By the query, without running it."""
        return query_columns(database(self.url), self.query)
