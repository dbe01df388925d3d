"""Rows of an SQLite database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from loraplug import InputError, Run
from loraplug.testing import from_table, tiny_run
from loraplug_data.sql import SqlSource

QUERY = "SELECT q AS instruction, a AS response, n FROM talks ORDER BY n"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "a b.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE talks (q TEXT, a TEXT, n INTEGER, raw BLOB)")
        made.executemany("INSERT INTO talks VALUES (?, ?, ?, ?)", [("hi", "ho", 2, b"x"), ("was", None, 1, b"y")])
    made.close()
    return path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return tiny_run(tmp_path)


def test_rows_of_a_query(base: Path, run: Run) -> None:
    """In its order, by path or address; numbers stay numbers, null stays null; a change is seen."""
    wanted = [{"instruction": "was", "response": None, "n": 1}, {"instruction": "hi", "response": "ho", "n": 2}]
    for url in (str(base), f"sqlite://{base}", f"sqlite://{str(base).replace(' ', '%20')}"):
        assert SqlSource(url=url, query=QUERY).load(run).to_list() == wanted
    assert SqlSource(url=str(base), query=f"{QUERY};", limit=1).load(run).to_list() == wanted[:1]
    renamed = SqlSource(url=str(base), query="SELECT q FROM talks", rename={"q": "text"})
    assert list(renamed.load(run)["text"]) == ["hi", "was"]
    keep = sqlite3.connect(base)
    keep.execute("PRAGMA journal_mode=WAL")
    keep.execute("UPDATE talks SET a = 'new' WHERE n = 1")
    keep.commit()  # into the log beside the file, as the connection stays open
    assert SqlSource(url=str(base), query=QUERY).load(run)["response"][0] == "new"
    keep.close()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT nope FROM talks", r"no such column: nope; tables: talks \(q, a, n, raw\)"),
        ("SELECT q FROM talk", "no such table: talk; tables: talks"),
        ("SELECT q, a AS q FROM talks", "gives the column q twice"),
        ("DELETE FROM talks", "syntax error"),
        ("SELECT q FROM talks; DELETE FROM talks", "syntax error"),
        ("SELECT 1) ; DELETE FROM talks; --", "one statement"),
        ("SELECT raw FROM talks", "row 0 has bytes in the column raw"),
    ],
)
def test_what_is_no_query_is_told(base: Path, run: Run, query: str, told: str) -> None:
    """By preflight where that is cheap; nothing can be written."""
    before = base.read_bytes()
    source = SqlSource(url=str(base), query=query)
    with pytest.raises(InputError, match=told):
        source.load(run)
    if "raw" not in query:
        (problem,) = source.preflight(run, None)
        assert problem.message.startswith(str(base))
    assert base.read_bytes() == before


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite:///none.db", "no such file"),
        ("sqlite://rel.db", 'write url = "rel.db"'),
        ("postgresql://me:hunter2secret@host/x", "postgresql is not a supported database"),
        ("{tmp}/text.db", "file is not a database"),
    ],
)
def test_what_is_no_database_is_told(tmp_path: Path, run: Run, url: str, told: str) -> None:
    """Without its password."""
    (tmp_path / "text.db").write_text("text " * 500)
    with pytest.raises(InputError, match=told) as error:
        SqlSource(url=url.format(tmp=tmp_path), query="SELECT 1").load(run)
    assert "hunter2secret" not in str(error.value)


def test_no_other_file_is_opened(base: Path, tmp_path: Path) -> None:
    """ATTACH would make one."""
    from loraplug_data.databases import _open

    with pytest.raises(InputError, match="too many attached"), _open(base) as opened:
        opened.execute(f"ATTACH '{tmp_path}/made.db' AS other")
    assert not (tmp_path / "made.db").exists()


def test_an_empty_query_is_refused() -> None:
    """By its key."""
    assert from_table(SqlSource, {"url": "x.db", "query": ""})[1]
