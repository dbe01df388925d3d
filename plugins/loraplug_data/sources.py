"""The dataset sources of this package."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen, validators

from loraplug import DatasetSource, Doc, InputError, Problem, Run
from loraplug_data.databases import database, query_columns, query_rows
from loraplug_data.fetching import Fetcher, naming, remotes
from loraplug_data.first_rows import columns_of, disk_columns, is_large
from loraplug_data.hub_rows import first_rows
from loraplug_data.paths import Paths, as_written, find_files, source_of
from loraplug_data.reading import Say, csv_rows, json_lines, json_rows
from loraplug_data.renaming import flat, new_names, renamed
from loraplug_data.tables import arrow_dataset, digest, rows_to_dataset, schema

if TYPE_CHECKING:
    from datasets import Dataset

_SHOWN = 5


@frozen
class _Shaped(DatasetSource):
    """What every source here can do with the rows it found."""

    rename: Annotated[
        dict[str, Any],
        Doc('columns to rename, `{ question = "instruction" }`, and keys in them, `{ "messages.text" = "content" }`'),
    ] = field(factory=dict, kw_only=True, converter=flat, validator=new_names)
    limit: Annotated[int | None, Doc("take only the first so many rows")] = field(
        default=None, kw_only=True, validator=validators.optional(validators.ge(1))
    )

    def shaped(self, rows: Dataset, what: object) -> Dataset:
        """Rows cut to the limit and renamed; `what` names the data in errors."""
        if self.limit is not None and self.limit < len(rows):
            rows = rows.select(range(self.limit))
        return renamed(rows, self.rename, f"{what}: rename") if self.rename else rows

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:  # noqa: ARG002
        """Files that are not there or cannot be read, and first rows of no kind that the formatter knows."""
        yield from self.recognised(recipe, self.first_columns)

    def recognised(self, recipe: Any, columns_of: Callable[[], list[str] | None]) -> Iterator[Problem]:
        """What the formatter says of the columns of the first rows."""
        try:
            columns = columns_of()
        except InputError as error:
            yield Problem.of(error, "dataset.path")
            return
        if columns is not None:
            recipe.formatter.recognise([self.rename.get(name, name) for name in columns])

    def first_columns(self) -> list[str] | None:
        """The columns that the first rows have; None where only reading all tells."""
        return None


def _some(_: Any, __: Any, value: Paths) -> None:
    if value == ():
        raise ValueError("expected a path, or a list of paths")


@frozen
class _Files(_Shaped):
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
                yield from self.recognised(recipe, lambda copy=copy: self.columns_of(copy))

    def first_columns(self) -> list[str] | None:
        """The columns of the first file's first rows."""
        return self.columns_of(find_files(self.path, self.name, list)[0])

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
        str | None, Doc('where the list of rows lies in a file that is one object: "train", or "data.train" further in')
    ] = field(default=None, validator=validators.optional(validators.min_len(1)))

    def rows_of(self, files: list[Path], run: Run) -> Dataset:
        """Read strictly."""
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
        """Read strictly."""
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
    """Rows of .csv and .tsv files, whose first line names the columns; every value is text, just as it is written."""

    name = "csv"
    delimiter: Annotated[
        str | None, Doc("what stands between two columns; where not set a comma, in .tsv files a tab")
    ] = field(default=None, validator=_one_character)

    def rows_of(self, files: list[Path], run: Run) -> Dataset:
        """Read strictly."""
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
        raise InputError("no such file or folder", where=path, todo="relative paths start from the recipe's folder")
    if not path.is_dir():
        kind = "a folder written by save_to_disk"
        raise InputError(f"is not {kind}", where=path, todo=f"give the path of {kind}")
    return path


@frozen
class DiskSource(_Shaped):
    """A data set folder written by `datasets` with `save_to_disk`."""

    name = "disk"
    path: Annotated[Path, Doc("the folder")]
    split: Annotated[str, Doc("which split, where the folder holds several")] = "train"

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
                f"is not a saved data set ({error})", where=self.path, todo="make it with Dataset.save_to_disk"
            ) from None
        if isinstance(found, DatasetDict):
            if self.split not in found:
                raise InputError(f'has no split "{self.split}"', where=self.path, todo=f"splits: {', '.join(found)}")
            found = found[self.split]
        return self.shaped(found, self.path)

    def first_columns(self) -> list[str] | None:
        """By the features that are written down beside the rows."""
        return disk_columns(self.path, self.split) or None


@frozen
class SqlSource(_Shaped):
    """Rows of an SQLite database, by a query; the database is opened for reading alone."""

    name = "sql"
    url: Annotated[str, Doc("the database: a path, or sqlite:///absolute/path", is_path=True)]
    query: Annotated[str, Doc("a SELECT; ORDER BY makes the order of the rows one that is told")] = field(
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


_TERMS = "check the id; for a private or gated one accept its terms on its page and set HF_TOKEN"
_SAVED = "check the network, or save the data set with save_to_disk elsewhere and use the `disk` source"


@frozen
class HubSource(_Shaped):
    """A data set of the Hugging Face hub; private and gated ones with HF_TOKEN. With limit no more is fetched."""

    name = "hub"
    id: Annotated[str, Doc("owner/name of the data set")]
    split: Annotated[str, Doc("which split; slices such as `train[:1000]` work")] = "train"
    config: Annotated[str | None, Doc("the configuration, where the data set has several", aka=("subset",))] = None
    revision: Annotated[str | None, Doc("a commit, tag or branch; pin it to get the same rows again")] = None

    def load(self, run: Run) -> Dataset:
        """The split's rows.

        Raises:
            InputError: no such data set, split or configuration, no access, or no network.
        """
        from datasets import disable_progress_bars, load_dataset
        from datasets.exceptions import DatasetNotFoundError
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        disable_progress_bars()
        run.say(f"dataset: asking the hub for {self.id}")
        try:
            if self.limit is not None and "[" not in self.split and "+" not in self.split:  # which streams cannot cut
                rows = first_rows(self.id, self.config, self.split, self.revision, self.limit, run)
            else:
                rows = load_dataset(self.id, self.config, split=self.split, revision=self.revision)
        except (DatasetNotFoundError, HFValidationError, ConnectionError, OfflineModeIsEnabled, OSError) as error:
            refused = isinstance(error, DatasetNotFoundError | HFValidationError) or (
                isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404)
            )
            why = " ".join(str(error).split())
            what, todo = f"the hub was not reached ({why})", _SAVED
            if refused:
                what, todo = f"cannot be had: {why}", _TERMS
            raise InputError(what, where=f"dataset.id {self.id}", todo=todo) from None
        except ValueError as error:  # unknown split or configuration; the message lists those there are
            raise InputError(" ".join(str(error).split()), where=f"dataset.id {self.id}") from None
        return self.shaped(rows, self.id)
