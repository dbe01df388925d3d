"""Traces out of files: one a file, one a line, a list of them, or one whose events or messages stand on lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loraplug import InputError
from loraplug_data.paths import Paths, ending
from loraplug_data.reading import document, json_lines
from loraplug_data.traces.formats import is_event

Row = Mapping[str, Any]
_LINES = (".jsonl", ".ndjson")
_WHOLE = (".traj", ".json")


def in_folders(path: Paths) -> Paths:
    """Paths, with the traces below a folder in its place: agents write a folder for each.

    Raises:
        InputError: a folder holds none.
    """
    made = [file for one in (path if isinstance(path, tuple) else (path,)) for file in _of(one)]
    return made[0] if len(made) == 1 else tuple(made)


def _of(one: str | Path) -> list[str | Path]:
    if isinstance(one, str) or not one.is_dir():
        return [one]
    files = [
        file for file in sorted(one.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(one).parts)
    ]  # fmt: skip
    traj = [file for file in files if file.name.endswith((".traj", ".traj.json"))]
    found = traj or [file for file in files if ending(file.name) in (*_LINES, *_WHOLE)]
    if not found:
        raise InputError("the folder holds no .traj, .json or .jsonl files", where=one, todo="check the path")
    return [*found]


def rows_of(file: Path) -> Iterator[tuple[str, Row]]:
    """The traces of a file, each with a name for it.

    Raises:
        InputError: it cannot be read, naming file and line, or holds no trace.
    """
    stem = file.name.split(".")[0] if ending(file.name) in (*_LINES, *_WHOLE) else file.stem
    if ending(file.name) in _LINES:
        yield from _of_lines(file, stem)
        return
    value = document(file)
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        if (key := _whole(value[0])) is not None:
            yield stem, {key: value}
        else:
            yield from ((f"{stem}[{number}]", one) for number, one in enumerate(value))
    elif isinstance(value, Mapping):
        yield stem, value
    else:
        raise InputError("has neither a trace nor a list of traces", where=file, todo="check that it is the right file")


def _of_lines(file: Path, stem: str) -> Iterator[tuple[str, Row]]:
    lines = json_lines(file)
    first = next(lines, None)
    if first is None:
        raise InputError("has no rows", where=file, todo="check that it is the right file")
    if (key := _whole(first)) is not None:
        yield stem, {key: [first, *lines]}
        return
    yield f"{stem}[0]", first
    yield from ((f"{stem}[{number}]", row) for number, row in enumerate(lines, 1))


def _whole(first: Row) -> str | None:
    """Under what key a file's items make one trace, where they are its events or messages."""
    if is_event(first):
        return "history"
    return "messages" if isinstance(first.get("role"), str) and "content" in first else None
