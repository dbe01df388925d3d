"""A whole plugin: one component, one hook, one entry point (in pyproject.toml)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from attrs import frozen

import loraplug
from loraplug import DatasetSource, Doc, InputError, Run

if TYPE_CHECKING:
    from datasets import Dataset


@frozen
class CsvSource(DatasetSource):
    """Rows of a CSV file, one training example a row."""

    name = "csv"
    path: Annotated[Path, Doc("the CSV file; its first line names the columns")]
    delimiter: Annotated[str, Doc("what stands between two columns")] = ","

    def load(self, run: Run) -> Dataset:
        """The file's rows, every value as text."""
        import csv

        from datasets import Dataset

        if not self.path.is_file():
            raise InputError("no such file", where=self.path, todo="check dataset.path in the recipe")
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = Dataset.from_list(list(csv.DictReader(file, delimiter=self.delimiter)))
        run.say(f"csv: {len(rows)} rows")
        return rows


@loraplug.hookimpl
def loraplug_dataset_sources() -> list[type[DatasetSource]]:
    """The one source."""
    return [CsvSource]
