"""Stores of tasks: a folder of `task_<n>.json`, a .json, .jsonl or .parquet file; and `hub:` data sets.

Every store can be counted cheaply and yields its entries one at a time, in order. The HTTP bucket is in
`bucket.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen

from loraplug import InputError
from loraplug_swe.tasks.json_stream import decode, json_entries
from loraplug_swe.tasks.rejects import Reject

_TASK_FILE = re.compile(r"task_(\d{1,18})\.json")


@frozen
class Entry:
    """One entry of a store: `data` is the decoded value, `fault` the error if there is none."""

    number: int
    where: str
    data: Any = None
    fault: Reject | None = None


class Place(Protocol):
    """A store of tasks.

    Attributes:
        numbered: whether numbers are names of tasks (`task_<n>.json`) or merely positions in a file.
    """

    numbered: bool

    def numbers(self) -> Sequence[int]:
        """The numbers of all entries, in order."""

    def read(self, numbers: Sequence[int]) -> Iterator[Entry]:
        """The entries of these numbers, in this order. An unknown number yields a fault `no-such-task`."""


@frozen
class Folder:
    """A folder of `task_<n>.json`, in the order of n, leading zeros or not."""

    path: Path
    numbered = True

    def numbers(self) -> Sequence[int]:
        """Numbers of the existing files."""
        return sorted(self._files())

    def read(self, numbers: Sequence[int]) -> Iterator[Entry]:
        """Read file by file."""
        files = self._files()
        for number in numbers:
            if (path := files.get(number)) is None:
                yield Entry(number, f"task_{number}.json", fault=missing(number, self.path))
                continue
            try:
                yield Entry(number, path.name, decode(path.read_bytes()))
            except Reject as fault:
                yield Entry(number, path.name, fault=fault)

    def _files(self) -> dict[int, Path]:
        files: dict[int, Path] = {}
        for path in self.path.iterdir():
            if match := _TASK_FILE.fullmatch(path.name):
                number = int(match[1])
                if number in files:
                    raise InputError(
                        f"{path.name} and {files[number].name} have the same number",
                        where=self.path,
                        todo="keep one of them",
                    )
                files[number] = path
        if not files:
            raise InputError(
                "the folder holds no task_<n>.json", where=self.path, todo="name a folder of tasks or a file"
            )
        return files


@frozen
class File:
    """A file whose entries can only be read from the front; `entries` opens it, `count` counts without decoding."""

    path: Path
    entries: Callable[[Path], Iterator[tuple[str, Any]]]
    count: Callable[[Path], int]
    numbered = False

    def numbers(self) -> Sequence[int]:
        """Positions, from 0."""
        return range(self.count(self.path))

    def read(self, numbers: Sequence[int]) -> Iterator[Entry]:
        """One pass over the file where the numbers rise; a further pass for each time they fall."""
        for rising in _rising(numbers):
            yield from self._pass(rising)

    def _pass(self, numbers: Sequence[int]) -> Iterator[Entry]:
        waiting = iter(numbers)
        wanted = next(waiting, None)
        for at, (where, data) in enumerate(self.entries(self.path)):
            if wanted is None:
                return
            if at == wanted:
                yield Entry(at, where, fault=data) if isinstance(data, Reject) else Entry(at, where, data)
                wanted = next(waiting, None)
        while wanted is not None:
            yield Entry(wanted, f"{self.path.name}, entry {wanted}", fault=missing(wanted, self.path))
            wanted = next(waiting, None)


def missing(number: int, where: object) -> Reject:
    """What a number that is not there is rejected with."""
    return Reject("no-such-task", f"{where} has no task {number}")


def open_place(tasks: str, *, split: str, revision: str | None) -> Place:
    """The store for a `tasks` string other than a URL.

    Raises:
        InputError: nothing exists there, or its type is unknown.
    """
    if tasks.startswith("hub:"):
        return _hub(tasks.removeprefix("hub:"), split, revision)
    path = Path(tasks)
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise InputError(
            "no such file or folder", where=path, todo="give a folder of task_<n>.json, a file, hub:owner/name or a URL"
        )
    kinds: dict[str, tuple[Callable[[Path], Iterator[tuple[str, Any]]], Callable[[Path], int]]] = {
        ".json": (json_entries, lambda path: sum(1 for _ in json_entries(path))),
        ".jsonl": (_jsonl_entries, _count_lines),
        ".parquet": (_parquet_entries, lambda path: int(_parquet(path).metadata.num_rows)),
    }
    if path.suffix.lower() not in kinds:
        raise InputError(f"tasks are not read from {path.suffix or 'a file without suffix'}", where=path,
                         todo=f"known: {', '.join(kinds)}")  # fmt: skip
    return File(path, *kinds[path.suffix.lower()])


def _rising(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    start = 0
    for at in range(1, len(numbers)):
        if numbers[at] <= numbers[at - 1]:
            yield numbers[start:at]
            start = at
    yield numbers[start:]


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if not line.isspace())


def _jsonl_entries(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            where = f"{path.name}:{number}"
            try:
                yield where, decode(line)
            except Reject as fault:
                yield where, fault


def _parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"not a parquet file: {error}", where=path) from None


def _parquet_entries(path: Path) -> Iterator[tuple[str, Any]]:
    row = 0
    for batch in _parquet(path).iter_batches(batch_size=64):
        for data in batch.to_pylist():
            yield f"{path.name}, row {row}", data
            row += 1


@frozen
class Hub:
    """A data set of the Hugging Face hub, downloaded by `datasets`."""

    name: str
    rows: Any
    numbered = False

    def numbers(self) -> Sequence[int]:
        """Row numbers, from 0."""
        return range(len(self.rows))

    def read(self, numbers: Sequence[int]) -> Iterator[Entry]:
        """Row by row out of the memory-mapped file."""
        for number in numbers:
            where = f"{self.name}, row {number}"
            if number < len(self.rows):
                yield Entry(number, where, self.rows[number])
            else:
                yield Entry(number, where, fault=missing(number, self.name))


def _hub(name: str, split: str, revision: str | None) -> Hub:
    import datasets

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name):
        raise InputError(f"hub:{name} is not hub:owner/name", where="tasks")
    try:
        return Hub(f"hub:{name}", datasets.load_dataset(name, split=split, revision=revision))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(
            f"the hub data set cannot be loaded: {error}",
            where=f"hub:{name}",
            todo="check name, split, revision and HF_TOKEN; what was loaded once works offline",
        ) from None
