"""The dataset sources of this package."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen, validators

from loraplug import Doc, InputError, Problem, Run
from loraplug_data.fetching import Fetcher, naming, remotes
from loraplug_data.first_rows import columns_of, disk_columns, is_large
from loraplug_data.paths import RELATIVE, Paths, as_written, find_files, source_of
from loraplug_data.reading import Say, csv_rows, json_lines, json_rows
from loraplug_data.shaped import Shaped
from loraplug_data.tables import arrow_dataset, rows_to_dataset, schema

if TYPE_CHECKING:
    from datasets import Dataset

_SHOWN = 5


def _some(_: Any, __: Any, value: Paths) -> None:
    if value == ():
        raise ValueError("expected a path, or a list of paths")


@frozen
class _Files(Shaped):
    """What sources that read files share."""

    path: Annotated[
        Paths,
        Doc("the file, a list of files, a pattern (`part-*`) or a folder; also addresses: https://, s3://, gs://"),
    ] = field(converter=as_written, validator=_some)

    @classmethod
    def reads(cls, path: str) -> bool:
        """Whether the files are of this source, by their endings."""
        return source_of(path) == cls.name

    def load(self, run: Run) -> Dataset:
        """The rows of all files, one file after the other.

        Raises:
            InputError: there is no such file, or it cannot be read, naming file and line or row.
        """
        fetch = Fetcher(run, self.name, self.limit)
        files = find_files(self.path, self.name, fetch)
        if len(files) > 1:
            shown = ", ".join(file.name for file in files[:_SHOWN])
            run.say(f"dataset: {len(files)} files: {shown}{' …' if len(files) > _SHOWN else ''}")
        where = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        with naming(fetch.copies):
            return self.shaped(self.rows_of(files, run), where)

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """As of other sources; of addresses whether they can be read, and the columns of those in the cache."""
        addresses, fetch = remotes(self.path), Fetcher(run, self.name, self.limit)
        if not addresses:
            yield from self.recognised(recipe, self.first_columns)
            return
        problems = [*fetch.problems(addresses)]
        yield from problems
        for copy in [*fetch.copies][: 0 if problems else 1]:
            with naming(fetch.copies):
                yield from self.recognised(recipe, partial(self.columns_of, copy))

    def first_columns(self) -> list[str] | None:
        """The columns of the first file's first rows."""
        return self.columns_of(find_files(self.path, self.name, lambda _: [])[0])

    @abstractmethod
    def rows_of(self, files: list[Path], run: Run) -> Dataset:
        """The rows of these files as they are."""

    @abstractmethod
    def columns_of(self, file: Path) -> list[str] | None:
        """The columns of one file's first rows; None where its size forbids to look."""


def _saying_once(run: Run) -> Say:
    said: set[str] = set()  # files are read twice, for the columns and for the rows

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            run.say(f"dataset: {text}")

    return say


@frozen
class JsonSource(_Files):
    """Rows of .json files: a list of objects, an object that holds such a list, or one object a line."""

    name = "json"
    field: Annotated[
        str | None, Doc('the key of the list of rows in a file that is one object: "train", or "data.train" if nested')
    ] = field(default=None, validator=validators.optional(validators.min_len(1)))

    def rows_of(self, files: list[Path], run: Run) -> Dataset:
        """See `reading`."""
        say, columns = _saying_once(run), [name.split(".")[0] for name in self.rename]

        def read(file: Path) -> Iterator[dict[str, Any]]:
            return json_rows(file, self.field, columns, say)

        return rows_to_dataset(read, files, f"json {self.field} {columns}", run)

    def columns_of(self, file: Path) -> list[str] | None:
        """By the first rows."""
        if is_large(file):
            return None
        return columns_of(file, json_rows(file, self.field, [name.split(".")[0] for name in self.rename]))


@frozen
class JsonLinesSource(_Files):
    """Rows of .jsonl files, one JSON object a line."""

    name = "jsonl"

    def rows_of(self, files: list[Path], run: Run) -> Dataset:
        """See `reading`."""
        say = _saying_once(run)

        def read(file: Path) -> Iterator[dict[str, Any]]:
            return json_lines(file, say)

        return rows_to_dataset(read, files, "jsonl", run)

    def columns_of(self, file: Path) -> list[str]:
        """By the first rows."""
        return columns_of(file, json_lines(file))


def _one_character(_: Any, __: Any, value: str | None) -> None:
    if value is not None and (len(value) != 1 or value in '"\r\n'):
        raise ValueError(f"expected one character, such as ; or a tab, got {value!r}")


@frozen
class CsvSource(_Files):
    """Rows of .csv and .tsv files, whose first line names the columns; every value is text, unchanged."""

    name = "csv"
    delimiter: Annotated[str | None, Doc("the delimiter between columns; default: a comma, in .tsv files a tab")] = (
        field(default=None, validator=_one_character)
    )

    def rows_of(self, files: list[Path], run: Run) -> Dataset:
        """See `reading`."""
        say = _saying_once(run)

        def read(file: Path) -> Iterator[dict[str, Any]]:
            return csv_rows(file, self.delimiter, say)

        return rows_to_dataset(read, files, f"csv {self.delimiter}", run)

    def columns_of(self, file: Path) -> list[str]:
        """By the first line, with a row that goes with it."""
        return columns_of(file, csv_rows(file, self.delimiter))


@frozen
class ParquetSource(_Files):
    """Rows of parquet files."""

    name = "parquet"

    def rows_of(self, files: list[Path], run: Run) -> Dataset:
        """Read by `datasets`."""
        return arrow_dataset("parquet", files, run)

    def columns_of(self, file: Path) -> list[str]:
        """By the schema."""
        return list(schema("parquet", file).names)


@frozen
class ArrowSource(_Files):
    """Rows of .arrow and .feather files: Arrow's file or stream format."""

    name = "arrow"

    def rows_of(self, files: list[Path], run: Run) -> Dataset:
        """Read by `datasets`."""
        return arrow_dataset("arrow", files, run)

    def columns_of(self, file: Path) -> list[str]:
        """By the schema."""
        return list(schema("arrow", file).names)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InputError("no such file or folder", where=path, todo=RELATIVE)
    if not path.is_dir():
        kind = "a folder written by save_to_disk"
        raise InputError(f"is not {kind}", where=path, todo=f"give the path of {kind}")
    return path


@frozen
class DiskSource(Shaped):
    """A data set folder written by `datasets` with `save_to_disk`."""

    name = "disk"
    path: Annotated[Path, Doc("the folder")]
    split: Annotated[str, Doc("the split, if the folder has several")] = "train"

    @classmethod
    def reads(cls, path: str) -> bool:
        """Whether it is a folder that `save_to_disk` wrote."""
        return source_of(path) == cls.name

    def load(self, run: Run) -> Dataset:  # noqa: ARG002
        """The folder's rows."""
        from datasets import DatasetDict, disable_progress_bars, load_from_disk

        disable_progress_bars()
        try:
            found = load_from_disk(str(_existing(self.path)))
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise InputError(
                f"is not a saved data set ({error})", where=self.path, todo="create it with Dataset.save_to_disk"
            ) from None
        if isinstance(found, DatasetDict):
            if self.split not in found:
                raise InputError(f'has no split "{self.split}"', where=self.path, todo=f"splits: {', '.join(found)}")
            found = found[self.split]
        return self.shaped(found, self.path)

    def first_columns(self) -> list[str] | None:
        """By the features that are written down beside the rows."""
        return disk_columns(self.path, self.split) or None
