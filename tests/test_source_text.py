"""Text files as they come: packed, in other encodings, CSV, and JSON that holds its rows somewhere inside."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraplug import InputError, Run
from loraplug_data.reading import csv_rows, json_rows
from loraplug_data.sources import CsvSource, JsonLinesSource, JsonSource

LINES = "".join(f'{{"text": "{n} ä\u2028"}}\n' for n in range(200)).encode()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("x", outputs=tmp_path / "outputs", cache=tmp_path / "cache")


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_files_are_read(tmp_path: Path, run: Run, ending: str) -> None:
    """By what they are, not by what they are called; one that is cut short is refused, not read in part."""
    packed = PACKERS[ending](LINES)
    for name in (f"a.jsonl.{ending}", "a.jsonl"):
        (tmp_path / name).write_bytes(packed)
        texts = JsonLinesSource(path=tmp_path / name).load(run)["text"]
        assert list(texts) == [f"{n} ä\u2028" for n in range(200)]
    (tmp_path / "cut.jsonl").write_bytes(packed[:-9])
    with pytest.raises(InputError, match=r"cut\.jsonl: is truncated or damaged"):
        JsonLinesSource(path=tmp_path / "cut.jsonl").load(run)


def test_a_file_called_packed_that_is_not(tmp_path: Path, run: Run) -> None:
    """Browsers unpack what they download and keep the name."""
    (tmp_path / "a.jsonl.gz").write_bytes(LINES)
    assert len(JsonLinesSource(path=tmp_path / "a.jsonl.gz").load(run)) == 200


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_utf16_is_read_where_its_mark_says_so(tmp_path: Path, run: Run, encoding: str) -> None:
    """And said; line ends inside texts stay."""
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "a.jsonl").write_bytes(mark + LINES.decode().encode(encoding))
    (tmp_path / "a.tsv").write_bytes(mark + 'text\tn\r\n"a\r\nb"\t007\r\n'.encode(encoding))
    assert JsonLinesSource(path=tmp_path / "a.jsonl").load(run)["text"][0] == "0 ä\u2028"
    assert list(CsvSource(path=tmp_path / "a.tsv").load(run)) == [{"text": "a\r\nb", "n": "007"}]
    told = [line for line in run.reporter.lines if encoding[:6].upper() in line]
    assert len(told) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LINES.decode().encode("utf-16-le"), "UTF-16 or UTF-32 without a byte order mark"),
        (LINES.decode().encode("utf-16")[:-3], "after line 199: is not UTF-16"),
        (b'{"text": "a"}\n{"text": "\xe4"}\n', r"a\.jsonl:2: is not UTF-8: the byte 0xe4, byte 11 of the line"),
        (b"PAR1", 'is a parquet file.*\n.*use = "parquet"'),
        (b"PK\x03\x04", "is a zip archive or a workbook"),
        (b'{\n"data": [{"text": "a"}]}', r'a\.jsonl:1: is not JSON.*\n.*use = "json"'),
        (b'[{"text": "a"}]', r'a\.jsonl:1: is a list.*\n.*use = "json"'),
    ],
)
def test_what_is_no_json_lines_is_told_by_cause(tmp_path: Path, run: Run, content: bytes, said: str) -> None:
    """The encoding, or what the file is instead."""
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(InputError) as caught:
        JsonLinesSource(path=tmp_path / "a.jsonl").load(run)
    assert re.search(said, str(caught.value)), str(caught.value)


CELLS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)


@given(
    columns=st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True), min_size=2, max_size=4, unique=True),
    data=st.data(),
    delimiter=st.sampled_from(",;\t|"),
)
def test_csv_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, columns: list[str], data: st.DataObject, delimiter: str
) -> None:
    """Any text in any cell, and always as text."""
    import csv

    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(columns), max_size=len(columns)), max_size=4))
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([columns, *rows])
    assert list(csv_rows(path, delimiter)) == [dict(zip(columns, row, strict=True)) for row in rows]


def test_csv_values_are_text(tmp_path: Path, run: Run) -> None:
    """Leading zeros, dates and words for nothing stay as written; a byte order mark and long cells do no harm."""
    long = "x" * 200_000
    text = f'id,text,n\r\n007,"two\r\nlines",NA\r\n008,"{long}",\r\n\r\n'
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    rows = list(CsvSource(path=tmp_path / "a.csv").load(run))
    assert rows == [{"id": "007", "text": "two\r\nlines", "n": "NA"}, {"id": "008", "text": long, "n": ""}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('a,b\n1,2\n"x\ny",2\n1,2,3\n', r"a\.csv:5: has 3 values, where the first line names 2 columns"),
        ("a,b\n1\n", r"a\.csv:2: has 1 values"),
        ('a,b\n1,2\n"x,2\n3,4\n', r"a\.csv:3: a quotation mark .* is never closed"),
        ('a,b\n"x"y,2\n', r"a\.csv:2: text follows a closing quotation mark"),
        ("a;b\n1;2\n", 'delimiter = ";"'),
        ("a\tb\n1\t2\n", r'delimiter = "\\t"'),
        ("a,b,a\n1,2,3\n", "lists the column a twice"),
        ("a,b\r1,2\r", "bare carriage return"),
        ("a,b\n", "has no rows"),
    ],
)
def test_broken_csv_is_told_by_line(tmp_path: Path, run: Run, content: str, said: str) -> None:
    """The line is that of the file, whatever line breaks values have."""
    (tmp_path / "a.csv").write_text(content, newline="")
    with pytest.raises(InputError) as caught:
        CsvSource(path=tmp_path / "a.csv").load(run)
    assert re.search(said, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t"), ("tsv.gz", "\t")])
def test_the_delimiter_goes_by_the_ending(tmp_path: Path, run: Run, ending: str, delimiter: str) -> None:
    """Commas, and tabs in .tsv; the option says otherwise."""
    text = f"a{delimiter}b\n1{delimiter}2\n".encode()
    (tmp_path / f"x.{ending}").write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    assert list(CsvSource(path=tmp_path / f"x.{ending}").load(run)) == [{"a": "1", "b": "2"}]
    (tmp_path / "y.csv").write_text("a|b\n1|2\n")
    assert list(CsvSource(path=tmp_path / "y.csv", delimiter="|").load(run)) == [{"a": "1", "b": "2"}]


A, B = {"text": "a"}, {"text": "b"}
ROW = {"messages": [{"role": "user", "content": "a"}], "id": 3}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("value", "rows", "said"),
    [
        ({"version": 1, "data": [A, B]}, [A, B], 'list "data" (2 objects); to be explicit set field = "data"'),
        ({"train": [A], "test": []}, [A], 'list "train"'),
        (ROW, [ROW], None),
        ({"question": "x", "answer": "y"}, [{"question": "x", "answer": "y"}], None),
        ([A, B], [A, B], None),
        ({"data": []}, [], None),
    ],
)
def test_rows_in_an_object_are_found(
    tmp_path: Path, indent: int | None, value: Any, rows: list[Any], said: str | None
) -> None:
    """A single list of objects is read and named; an object that is a row stays one, on one line or on many."""
    (tmp_path / "a.json").write_text(json.dumps(value, indent=indent))
    told: list[str] = []
    assert list(json_rows(tmp_path / "a.json", say=told.append)) == rows
    assert [said in line for line in told] == ([] if said is None else [True])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"train": [A], "test": [B]}, r'train \(1\), test \(1\)\n.*field = "train"'),
        ({"0": ROW, "1": ROW}, "holds objects by name .*\n.*write the rows as a list of objects"),
        ({"data": {"train": [A], "test": [B]}}, 'field = "data.train"'),
        ({"instruction": ["a", "b"], "response": ["c", "d"]}, "holds a list for each column"),
        ({"text": {"0": "a", "1": "b"}}, "holds objects by name"),
    ],
)
def test_what_can_be_read_two_ways_is_refused(tmp_path: Path, value: Any, said: str) -> None:
    """With the option that decides, where there is one."""
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(InputError) as caught:
        list(json_rows(tmp_path / "a.json"))
    assert re.search(said, str(caught.value)), str(caught.value)


def test_field_names_the_list(tmp_path: Path, run: Run) -> None:
    """Also one further in; another field of the same file is other rows, in the cache as well."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": [A], "more": {"test": [B]}, "a.b": [A, B]}))
    for name, rows in (("train", [A]), ("more.test", [B]), ("a.b", [A, B])):
        assert list(JsonSource(path=path, field=name).load(run)) == rows
    for name, said in (("tran", "there is: train, more"), ("more", "is an object, not a list"), ("train.x", "a list")):
        with pytest.raises(InputError, match=said):
            JsonSource(path=path, field=name).load(run)


def test_a_renamed_column_makes_an_object_a_row(tmp_path: Path, run: Run) -> None:
    """What the recipe names as a column is no list of rows."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"dialog": [{"who": "user", "text": "hi"}]}))
    source = JsonSource(path=path, rename={"dialog": "messages", "dialog.text": "content", "dialog.who": "role"})
    assert list(source.load(run)) == [{"messages": [{"role": "user", "content": "hi"}]}]
