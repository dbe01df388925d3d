"""Reads JSON rows strictly, and turns rows into a `datasets.Dataset` without holding them all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import InputError, Run

if TYPE_CHECKING:
    from datasets import Dataset

_MEND = "mend the line, or take it out of the file"


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file; empty lines are passed over.

    Raises:
        InputError: a line is not UTF-8, not JSON or not an object, naming file and line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _object(_parsed(line, f"{path}:{number}"), f"{path}:{number}")


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON file: a list of objects, or one object a line.

    Raises:
        InputError: as `json_lines`, or the list is broken, naming file and line.
    """
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if head == b"{":
        yield from json_lines(path)
        return
    rows = _parsed(path.read_bytes(), path)
    if not isinstance(rows, list):
        raise InputError(f"holds {type(rows).__name__}, not a list of objects", where=path)
    for index, row in enumerate(rows):
        yield _object(row, f"{path}: item {index}")


def _parsed(text: bytes, where: object) -> Any:
    try:
        value = json.loads(text.decode("utf-8-sig"))
        if b"\\ud" in text or b"\\uD" in text:  # halves of surrogate pairs can be said, but are no text
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 ({error.reason} at byte {error.start})", where=where, todo=_MEND) from None
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}" if isinstance(where, Path) else where
        raise InputError(f"is not JSON: {error.msg} at column {error.colno}", where=place, todo=_MEND) from None
    except UnicodeEncodeError:
        raise InputError("holds half a surrogate pair, which is no character", where=where, todo=_MEND) from None
    except ValueError as error:
        raise InputError(f"cannot be read: {error}", where=where, todo=_MEND) from None
    except RecursionError:
        raise InputError("is nested too deeply", where=where, todo=_MEND) from None


def _object(row: Any, where: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"is {type(row).__name__}, not an object of columns", where=where, todo=_MEND)
    return row


def rows_to_dataset(read: Callable[[], Iterator[dict[str, Any]]], path: Path, run: Run) -> Dataset:
    """Rows as a data set on disk, in the cache under the hash of the file's bytes.

    Columns that are text (or numbers) throughout keep that type; everything else becomes `datasets.Json`, which keeps
    nested values just as they are, where Arrow's structs would fill every row with every other row's keys.
    """
    import hashlib

    from datasets import Dataset, Features, Json, disable_progress_bars

    disable_progress_bars()
    types: dict[str, set[type]] = {}
    for row in read():
        for key, value in row.items():
            types.setdefault(key, set()).add(type(value))
    if not types:
        raise InputError("has no rows", where=path, todo="check that it is the right file")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    features = Features({key: _feature(found - {type(None)}) for key, found in types.items()})
    keys = tuple(types)  # a list would be taken for shards to divide
    cache = str(run.cache / "rows")
    nested = tuple(key for key in keys if isinstance(features[key], Json))
    given = {"read": read, "keys": keys, "nested": nested}
    return Dataset.from_generator(
        _whole, features, cache_dir=cache, gen_kwargs=given, fingerprint=f"exact-{digest[:58]}"
    )


def _whole(
    read: Callable[[], Iterator[dict[str, Any]]], keys: tuple[str, ...], nested: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Every row with all keys; what goes into `Json` columns as JSON, as `datasets` would round numbers in it."""
    for row in read():
        made = {key: row.get(key) for key in keys}
        for key in nested:
            if made[key] is not None:
                made[key] = json.dumps(made[key], ensure_ascii=False)
        yield made


def _feature(found: set[type]) -> Any:
    from datasets import Json, Value

    plain = {str: "string", bool: "bool", float: "float64"}
    only = next(iter(found)) if len(found) == 1 else None
    return Value(plain[only]) if only in plain else Json()
