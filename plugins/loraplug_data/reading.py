"""Reads rows of JSON and CSV files strictly: an error names file, line and row, and no value is changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from loraplug import InputError, shape_of
from loraplug_data.streams import lines

Row = dict[str, Any]
Say = Callable[[str], None]

_MEND = "correct the line, or remove it from the file"
_WHOLE = 'for a file that is one list or one object, set use = "json"'
_SHOWN = 8
_KINDS = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


def json_lines(path: Path, say: Say | None = None) -> Iterator[Row]:
    """The objects of a JSON Lines file; empty lines are passed over.

    Raises:
        InputError: a line is not UTF-8, not JSON or not an object, naming file and line.
    """
    return _line_rows(enumerate(lines(path, say), 1), path)


def json_rows(
    path: Path, field: str | None = None, columns: Collection[str] = (), say: Say | None = None
) -> Iterator[Row]:
    """The objects of a JSON file: a list of objects, an object that holds such a list, or one object a line.

    Args:
        path: the file.
        field: where the list lies in a file that is one object, `data.train` for one further in.
        columns: names of columns that are known to the recipe, so that an object with one of them is a row.
        say: told which list was read where the recipe did not say.

    Raises:
        InputError: as `json_lines`, or the list is broken or not to be found, naming file and line.
    """
    numbered = enumerate(lines(path, say), 1)
    first = next(((number, line) for number, line in numbered if line.strip()), None)
    second = next(((number, line) for number, line in numbered if line.strip()), None)
    if first and second and first[1].lstrip().startswith(b"{") and _is_json(first[1]):
        if field is not None:
            what = "has one object per line, so `field` does not apply"
            raise InputError(what, where=path, todo="remove field from the recipe")
        yield from _line_rows(chain((first, second), numbered), path)
        return
    rows = _list_of(document(path), path, field, columns, say)
    for index, row in enumerate(rows):
        yield _object(row, f"{path}: item {index}")


def document(path: Path) -> Any:
    """What a JSON file holds as a whole.

    Raises:
        InputError: it is empty, or no JSON, naming file and line.
    """
    text = b"".join(lines(path))
    if not text.strip():
        raise InputError("is empty", where=path, todo="check that it is the right file")
    return _parsed(text, path)


def csv_rows(path: Path, delimiter: str | None, say: Say | None = None) -> Iterator[Row]:
    """The rows of a CSV file, whose first line names the columns; every value is text.

    Raises:
        InputError: a row has more or fewer values than there are columns, quotation marks do not pair, or a line is
            not UTF-8, naming file and line.
    """
    import csv

    csv.field_size_limit(2**31 - 1)  # of the whole process; without it a text of 128 KiB is an error
    between = delimiter or ("\t" if ".tsv" in path.suffixes[-2:] else ",")
    start, columns = 1, None
    reader = csv.reader(_decoded(lines(path, say), path), delimiter=between, strict=True)
    try:
        for values in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if not values or (values == [""] and columns != values):
                continue
            if columns is None:
                columns = _columns(values, where, between, delimiter is not None)
            elif len(values) != len(columns):
                what = f"has {len(values)} values, where the first line names {len(columns)} columns"
                todo = 'put values that contain line breaks or the delimiter in quotation marks ("…")'
                raise InputError(what, where=where, todo=todo)
            else:
                yield dict(zip(columns, values, strict=True))
    except csv.Error as error:
        what, todo = _csv_fault(str(error))
        raise InputError(what, where=f"{path}:{start}", todo=todo) from None


def _columns(names: list[str], where: str, between: str, said: bool) -> list[str]:
    other = next((mark for mark in ";\t|," if mark in names[0]), None)
    if len(names) == 1 and other is not None and not said:
        shown = "\\t" if other == "\t" else other
        what = f'has one column by {"tabs" if between == chr(9) else "commas"}: "{names[0][:80]}"'
        raise InputError(what, where=where, todo=f'set the delimiter: delimiter = "{shown}"')
    names = [name.strip() or f"column {number}" for number, name in enumerate(names, 1)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"lists the column {twice[0]} twice", where=where, todo="give every column its own name")
    return names


def _csv_fault(words: str) -> tuple[str, str]:
    if "unexpected end" in words:
        return "a quotation mark that opens a value in this row is never closed", _MEND
    if "expected after" in words:
        return "text follows a closing quotation mark", 'write a quotation mark inside a value twice ("")'
    if "new-line" in words:
        return (
            "has a bare carriage return, which is not a line ending",
            "save the file with line feeds instead",
        )
    return f"is not CSV: {words}", _MEND


def _decoded(found: Iterable[bytes], path: Path) -> Iterator[str]:
    for number, line in enumerate(found, 1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(error, f"{path}:{number}") from None


def _not_utf8(error: UnicodeDecodeError, where: object) -> InputError:
    before = error.object[: error.start]
    if isinstance(where, Path):  # a whole document
        where = f"{where}:{before.count(10) + 1}"
    column = error.start - before.rfind(b"\n")
    what = f"is not UTF-8: the byte 0x{error.object[error.start]:02x}, byte {column} of the line"
    return InputError(what, where=where, todo="save the file as UTF-8, in Excel as `CSV UTF-8`")


def _line_rows(numbered: Iterable[tuple[int, bytes]], path: Path) -> Iterator[Row]:
    todo = f"{_MEND}; {_WHOLE}"  # until a line was read: a file of lines has an object in its first
    for number, line in numbered:
        if line.strip():
            yield _object(_parsed(line, f"{path}:{number}", todo), f"{path}:{number}")
            todo = _MEND


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return True


def _list_of(value: Any, path: Path, field: str | None, columns: Collection[str], say: Say | None) -> list[Any]:
    """The rows of a whole document."""
    if field is not None:
        return _at(value, field, path)
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise InputError(f"holds {_kind(value)}, not a list of objects", where=path)
    if _is_row(value, columns):
        return [value]
    lists = {key: item for key, item in value.items() if _has_objects(item)}
    if len(lists) == 1:
        ((key, rows),) = lists.items()
        if say is not None:
            say(f'{path.name}: the rows are its list "{key}" ({len(rows)} objects); to be explicit set field = "{key}"')
        return list(rows)
    if lists:
        named = ", ".join(f"{key} ({len(item)})" for key, item in lists.items())
        todo = f'set the list to use: field = "{next(iter(lists))}"'
        raise InputError(f"holds {len(lists)} lists of objects: {named}", where=path, todo=todo)
    parts = list(value.values())
    if parts and all(isinstance(part, dict) for part in parts):
        what = f"holds objects by name ({_listed(value)}), not a list of rows"
        inner = [f"{key}.{name}" for key, part in value.items() for name, item in part.items() if _has_objects(item)]
        todo = "write the rows as a list of objects, or one object per line"
        if inner and not _is_row(parts[0], columns):
            todo = f'set the list to use; a nested one as field = "{inner[0]}"'
        raise InputError(what, where=path, todo=todo)
    if {len(part) for part in parts if isinstance(part, list)} == {0}:
        return []
    if parts and _by_columns(value):
        what = f"holds a list for each column ({_listed(value)}), not a list of rows"
        raise InputError(what, where=path, todo="write the rows as a list of objects, or one object per line")
    return [value]


def _has_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _is_row(value: Row, columns: Collection[str]) -> bool:
    """Whether an object is a row itself, by its columns; one of lists throughout is a table by columns."""
    if any(column in value for column in columns):
        return True
    try:
        shape_of(value)
    except InputError:
        return False
    return not _by_columns(value)


def _by_columns(value: Row) -> bool:
    """Whether it holds all values of a column together, as pandas writes tables."""
    parts = list(value.values())
    return all(isinstance(part, dict) for part in parts) or (
        all(isinstance(part, list) and not _has_objects(part) for part in parts)
        and len({len(part) for part in parts}) == 1
    )


def _at(value: Any, field: str, path: Path) -> list[Any]:
    """The list at a dotted name; a key with dots in it is found as it is, too."""
    where, found, rest = f"{path}: field {field}", value, field
    while rest:
        if not isinstance(found, dict):
            raise InputError(f'{_kind(found)} has no "{rest}" in it', where=where, todo=_fields(value))
        key = rest if rest in found else rest.split(".", 1)[0]
        if key not in found:
            raise InputError(f'there is no "{key}"', where=where, todo=f"there is: {_listed(found)}")
        found, rest = found[key], rest[len(key) + 1 :]
    if not isinstance(found, list):
        raise InputError(f"is {_kind(found)}, not a list", where=where, todo=_fields(found))
    return found


def _fields(value: Any) -> str:
    if isinstance(value, list):
        return "the file itself is a list of rows: remove field from the recipe"
    return f"there is: {_listed(value)}" if isinstance(value, dict) else "name a list of objects"


def _listed(value: Row) -> str:
    return ", ".join(list(value)[:_SHOWN]) + (f" and {len(value) - _SHOWN} more" if len(value) > _SHOWN else "")


def _parsed(text: bytes, where: object, todo: str = _MEND) -> Any:
    try:
        value = json.loads(text.decode("utf-8-sig"))
        if b"\\ud" in text or b"\\uD" in text:  # halves of surrogate pairs can be said, but are no text
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeDecodeError as error:
        raise _not_utf8(error, where) from None
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}" if isinstance(where, Path) else where
        if error.msg == "Extra data" and isinstance(where, Path):
            what = f"goes on after the first value, at column {error.colno}"
            raise InputError(what, where=place, todo="write one object per line, or all of them as one list") from None
        raise InputError(f"is not JSON: {error.msg} at column {error.colno}", where=place, todo=todo) from None
    except UnicodeEncodeError:
        raise InputError("contains half a surrogate pair, which is not a character", where=where, todo=_MEND) from None
    except ValueError as error:
        raise InputError(f"cannot be read: {error}", where=where, todo=_MEND) from None
    except RecursionError:
        raise InputError("is nested too deeply", where=where, todo=_MEND) from None


def _object(row: Any, where: object) -> Row:
    if not isinstance(row, dict):
        todo = _WHOLE if isinstance(row, list) else _MEND
        raise InputError(f"is {_kind(row)}, not an object of columns", where=where, todo=todo)
    return row


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "null")
