"""Rows of an SQLite database, by a query; it is opened read-only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from loraplug import InputError, redact
from loraplug_data.paths import RELATIVE

if TYPE_CHECKING:
    import sqlite3

_BATCH = 1000
_SHOWN = 8


def database(url: str) -> Path:
    """The file that `sqlite:///path` or a path names.

    Raises:
        InputError: another database, a relative path behind `sqlite://`, or no such file.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?", url)
    if match and match[1].lower() not in ("sqlite", "sqlite3"):
        what, todo = (
            f"{match[1]} is not a supported database",
            "give an SQLite file; export other tables to .csv or .parquet",
        )
        raise InputError(what, where=f"dataset.url {redact(url)}", todo=todo)
    path = Path(unquote(url[match.end() :].partition("?")[0])) if match else Path(url)
    if not path.is_absolute():
        todo = f'write url = "{path}", which starts from the recipe\'s folder, or sqlite:///absolute/path'
        raise InputError("is not an absolute path", where=f"dataset.url {url}", todo=todo)
    if not path.is_file():
        raise InputError("no such file", where=path, todo=RELATIVE)
    return path


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    import sqlite3

    try:
        opened = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        try:
            opened.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)  # a query could write to another file through ATTACH
            opened.execute("PRAGMA schema_version").close()  # the file is looked at only now
            yield opened
        finally:
            opened.close()
    except (sqlite3.Error, sqlite3.Warning, UnicodeDecodeError) as error:
        todo = "correct the query, or check that the file is an SQLite database that nobody is writing to"
        raise InputError(f"{error}{_there(path, str(error))}", where=path, todo=todo) from None


def _there(path: Path, error: str) -> str:
    """What a name in a query may have meant."""
    import sqlite3

    if not error.startswith(("no such table", "no such column")):
        return ""
    try:
        opened = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        try:
            tables = [
                name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
            ]
            told = [
                f"{table} ({', '.join(one[1] for one in opened.execute(f'PRAGMA table_info({_quoted(table)})'))})"
                for table in tables[:_SHOWN]
            ]
        finally:
            opened.close()
    except sqlite3.Error:
        return ""
    return f"; tables: {', '.join(told)}" if told else "; there are no tables"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def query_columns(path: Path, query: str) -> list[str]:
    """The columns that a query gives, without running it.

    Raises:
        InputError: it is no query of this database, or gives a column twice.
    """
    with _open(path) as opened:
        found = opened.execute(f"SELECT * FROM ({query.strip().rstrip(';')}\n) LIMIT 0")  # noqa: S608 - the user's own
        columns = [one[0] for one in found.description]
        plain = opened.execute(f"EXPLAIN {query}")
        plain.close()
    if twice := sorted({name for name in columns if columns.count(name) > 1 or f"{name}:1" in columns}):
        raise InputError(f"the query gives the column {twice[0]} twice", where=path, todo="name one of them with AS")
    return columns


def query_rows(path: Path, query: str) -> Iterator[dict[str, Any]]:
    """The rows of a query, a batch in memory at a time.

    Raises:
        InputError: as `query_columns`, or a value is neither text nor a number.
    """
    columns = query_columns(path, query)
    with _open(path) as opened:
        found = opened.execute(query)
        number = 0
        while batch := found.fetchmany(_BATCH):
            for values in batch:
                for name, value in zip(columns, values, strict=True):
                    if isinstance(value, bytes):
                        what = f"row {number} has bytes in the column {name}, which are not text"
                        raise InputError(
                            what, where=path, todo=f"CAST({name} AS TEXT) in the query, or do not select it"
                        )
                yield dict(zip(columns, values, strict=True))
                number += 1
