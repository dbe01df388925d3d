"""What `recipe init --data` finds out about a file of rows, and what of a recipe follows from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import InputError, Run, conversation, iter_rows, options, shape_of

if TYPE_CHECKING:
    from loraplug import DatasetSource, Registry

LOOKED_AT = 1000
"""Rows from the first on that lengths and shapes are taken from."""
_TASKS = ({"problem_statement", "repo", "base_commit"}, {"source", "bug"})
_CHARACTERS = 3  # a token, few enough for code: prose has four or more
_A_MESSAGE = 8  # tokens that a chat template writes around one
_LONGEST = 32768
_SHOWN = 5


@frozen
class Proposal:
    """What fits a file of rows.

    Attributes:
        purpose: "chat", "text" or "swe", as starters are called.
        use: the dataset source.
        path: the file.
        rename: columns to rename.
        rows: how many there are.
        shape: what the core recognised.
        tokens: estimated length that 95% of the rows looked at do not exceed, and that of the longest.
        unusable: rows looked at that hold no conversation, each with the reason.
    """

    purpose: str
    use: str
    path: Path
    rename: Mapping[str, str]
    rows: int
    shape: str
    tokens: tuple[int, int]
    unusable: tuple[str, ...] = ()

    @property
    def count(self) -> str:
        """How many rows there are, in words."""
        return "1 row" if self.rows == 1 else f"{self.rows:,} rows"

    @property
    def max_length(self) -> int:
        """The next power of two, 512 to 32768."""
        length = 512
        while length < min(self.tokens[0], _LONGEST):
            length *= 2
        return length

    @property
    def validation(self) -> str | None:
        """The `[validation]` key, as TOML with its reason; None where there are too few rows to hold any out."""
        if self.rows < 20:
            return None
        if self.rows > 20_000:
            return f"rows = 1000                        # of {self.rows:,}: enough to tell losses apart"
        share = 0.1 if self.rows < 1000 else 0.05
        return f"fraction = {share:<23} # about {max(1, round(share * self.rows)):,} of {self.rows:,} rows"


def propose(path: Path, rename: Mapping[str, str], registry: Registry) -> Proposal:
    """Read a file of rows as a run would, and look at its first rows.

    Raises:
        InputError: it is missing, empty or broken, no source reads it, or its rows are of several shapes or none.
    """
    source = _source(path, rename, registry)
    try:
        rows = source.load(run=Run(name="init"))
    except InputError as error:
        raise InputError(error.what, where=error.where or path, todo=_without_recipe(error.todo)) from None
    if len(rows) == 0:
        raise InputError("has no rows", where=path, todo="check that it is the right file")
    count, columns = len(rows), set(rows.column_names)
    if any(wanted <= columns for wanted in _TASKS):
        return Proposal("swe", source.name, path, rename, count, "bug-fix tasks", (0, 0))
    first = [*islice(iter_rows(rows), LOOKED_AT)]
    shape = _one_shape(first, path)
    lengths, unusable = _lengths(first, shape)
    if not lengths:
        raise InputError(f"none of its rows can be used; {unusable[0]}", where=path, todo="fix the rows")
    lengths.sort()
    tokens = lengths[min(len(lengths) - 1, len(lengths) * 95 // 100)], lengths[-1]
    purpose = "text" if shape == "text" else "chat"
    return Proposal(purpose, source.name, path, rename, count, shape, tokens, tuple(unusable))


def _source(path: Path, rename: Mapping[str, str], registry: Registry) -> DatasetSource:
    try:
        there = path.exists()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, todo="check the path") from None
    if not there:
        raise InputError("no such file or folder", where=path, todo="give the file that holds your rows")
    found = [entry for entry in registry.of_kind("dataset") if _reads(entry.cls, path)]
    if len(found) > 1:
        names = ", ".join(entry.full_name for entry in found)
        raise InputError(f"is read by several sources: {names}", where=path, todo="leave out all but one plugin")
    if not found:
        kinds = ".jsonl, .json, .csv, .tsv, .parquet, .arrow, or a folder of one kind of them"
        raise InputError("has a file type that no dataset source reads", where=path, todo=f"give {kinds}")
    cls: Any = found[0].cls
    known = {option.name for option in options(cls)}
    if rename and "rename" not in known:
        raise InputError(f"the source {cls.name} renames no columns", where="--rename", todo="leave it out")
    made: DatasetSource = cls(path=path, **({"rename": dict(rename)} if rename else {}))
    return made


def _reads(cls: Any, path: Path) -> bool:
    needed = {option.name for option in options(cls) if option.required}
    return needed == {"path"} and bool(cls.reads(path=str(path)))


def _without_recipe(todo: str | None) -> str | None:
    """Renaming is said on the command line here; there is no recipe yet."""
    return todo and todo.replace('[dataset] rename = { question = "instruction" }', "--rename question=instruction")


def _one_shape(rows: Iterable[Mapping[str, Any]], path: Path) -> str:
    """The shape of all rows, by the columns in which each has a value."""
    found: dict[str, list[int]] = {}
    problem: InputError | None = None
    for index, row in enumerate(rows):
        try:
            shape = shape_of([name for name, value in row.items() if value is not None])
        except InputError as error:
            problem, shape = problem or error, "no known shape"
        found.setdefault(shape, []).append(index)
    if len(found) > 1:
        told = "; ".join(f"{shape}: {_listed(indices)}" for shape, indices in found.items())
        todo = "put the rows of each shape into a separate file, with one recipe each, or convert all to one shape"
        raise InputError(f"holds rows of {len(found)} shapes ({told})", where=path, todo=todo)
    if problem is not None:
        raise InputError(problem.what, where=path, todo=_as_option(problem.todo))
    return next(iter(found))


def _listed(indices: list[int]) -> str:
    more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
    return f"row{'s' if len(indices) > 1 else ''} {', '.join(map(str, indices[:_SHOWN]))}{more}"


def _as_option(todo: str | None) -> str:
    """The core's advice on columns, in which `--rename` stands for the recipe's key."""
    advice = (todo or "").replace("[dataset] rename", "in a recipe [dataset] rename")
    return f"{advice}; here --rename OLD=NEW for each".lstrip("; ")


def _lengths(rows: Iterable[dict[str, Any]], shape: str) -> tuple[list[int], list[str]]:
    """Estimated tokens of each row, and why others have none."""
    lengths, unusable = [], []
    for index, row in enumerate(rows):
        if shape == "text":
            lengths.append(len(str(row.get("text") or "")) // _CHARACTERS + 1)
            continue
        try:
            found = conversation(row, shape, index)
        except InputError as error:
            unusable.append(f"{error.where}: {error.what}")
            continue
        parts = [*_texts(found.messages), *([json.dumps(found.tools)] if found.tools else [])]
        lengths.append(sum(map(len, parts)) // _CHARACTERS + _A_MESSAGE * len(found.messages))
    return lengths, unusable


def _texts(messages: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for message in messages:
        for key, value in message.items():
            if key != "role" and isinstance(value, str):
                yield value
            elif isinstance(value, list | dict):
                yield json.dumps(value, default=str, ensure_ascii=False)
