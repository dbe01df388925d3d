"""Which files a `path` means: several, patterns, folders; and what is refused before a row is read."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from loraplug import InputError, Run
from loraplug_data.sources import ArrowSource, CsvSource, JsonLinesSource, JsonSource, ParquetSource

LINE = '{"text": "%s"}\n'


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("x", outputs=tmp_path / "outputs", cache=tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of lines, one of them packed, beside what is no data."""
    made = tmp_path / "data"
    made.mkdir()
    (made / "b.jsonl").write_text(LINE % "b")
    (made / "a.jsonl.gz").write_bytes(gzip.compress((LINE % "a").encode()))
    (made / "README.md").write_text("about")
    (made / ".hidden.jsonl").write_text(LINE % "hidden")
    return made


def test_several_files_are_read_in_order(folder: Path, run: Run) -> None:
    """A list in its own order, a pattern and a folder in that of names; which they were is said."""
    listed = [folder / "b.jsonl", folder / "a.jsonl.gz"]
    assert list(JsonLinesSource(path=listed).load(run)["text"]) == ["b", "a"]
    for path in (folder, folder / "*.jsonl*"):
        run.reporter.lines.clear()
        assert list(JsonLinesSource(path=path).load(run)["text"]) == ["a", "b"]
        assert run.reporter.lines == ["dataset: 2 files: a.jsonl.gz, b.jsonl"]


def test_a_change_in_any_file_is_seen(folder: Path, run: Run) -> None:
    """The cache goes by the content of all files, and by their order."""
    listed = [folder / "a.jsonl.gz", folder / "b.jsonl"]
    assert list(JsonLinesSource(path=listed).load(run)["text"]) == ["a", "b"]
    (folder / "b.jsonl").write_text(LINE % "c")
    assert list(JsonLinesSource(path=listed).load(run)["text"]) == ["a", "c"]
    assert list(JsonLinesSource(path=listed[::-1]).load(run)["text"]) == ["c", "a"]


def test_a_changed_parquet_file_is_read_again(tmp_path: Path, run: Run) -> None:
    """Also where size and time of writing are those of before."""
    import os

    path = tmp_path / "a.parquet"
    for text in ("old", "new"):
        Dataset.from_dict({"text": [text]}).to_parquet(path)
        os.utime(path, ns=(10**18, 10**18))
        assert list(ParquetSource(path=path).load(run)["text"]) == [text]


def test_columns_of_all_files_are_there(tmp_path: Path, run: Run) -> None:
    """A column that one file lacks is null for its rows; an empty file among others is told."""
    (tmp_path / "1.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "2.jsonl").write_text('{"text": "b", "id": 7}\n')
    (tmp_path / "3.jsonl").write_text("\n")
    rows = JsonLinesSource(path=tmp_path).load(run)
    assert list(rows) == [{"text": "a", "id": None}, {"text": "b", "id": 7}]
    assert run.reporter.warnings == ["3.jsonl has no rows"]


def test_copies_of_a_file_are_told(tmp_path: Path, run: Run) -> None:
    """Twice the same bytes under two names is likely a mistake, but may be meant."""
    for name in ("1.jsonl", "2.jsonl"):
        (tmp_path / name).write_text(LINE % "a")
    assert len(JsonLinesSource(path=tmp_path).load(run)) == 2
    assert run.reporter.warnings == ["2.jsonl is identical to 1.jsonl, so each of its rows occurs twice"]


def test_a_name_with_brackets_is_a_name(tmp_path: Path, run: Run) -> None:
    """Only what does not exist is a pattern."""
    (tmp_path / "a[1].jsonl").write_text(LINE % "a")
    Dataset.from_dict({"text": ["b"]}).to_parquet(tmp_path / "b[1].parquet")
    assert list(JsonLinesSource(path=tmp_path / "a[1].jsonl").load(run)["text"]) == ["a"]
    assert list(ParquetSource(path=tmp_path / "b[1].parquet").load(run)["text"]) == ["b"]


@pytest.mark.parametrize(
    ("source", "names", "path", "said"),
    [
        (JsonLinesSource, ["rows.jsonl"], "row.jsonl", r"no such file or folder\n.*similar: rows\.jsonl"),
        (JsonLinesSource, ["rows.jsonl"], "part-*.jsonl", "no file matches this pattern"),
        (JsonLinesSource, ["rows.jsonl"], ["rows.jsonl", "*.jsonl"], r"rows\.jsonl: is named twice"),
        (JsonLinesSource, ["a.jsonl", "b.csv"], ".", r'cannot read: b\.csv\n.*path = ".*/\*\.jsonl"'),
        (JsonLinesSource, ["a.jsonl", "b.csv"], "*", r'b\.csv: is a \.csv file.*\n.*use = "csv"'),
        (JsonSource, ["rows.tsv.gz"], "rows.tsv.gz", r'is a \.tsv file.*\n.*use = "csv"'),
        (JsonSource, ["rows.parquet"], ".", r'has no \.json files\n.*use = "parquet"'),
        (CsvSource, ["rows.xlsx"], "rows.xlsx", "is a workbook\n.*save the sheet as CSV"),
        (CsvSource, ["rows.zip"], "rows.zip", "is an archive\n.*unpack it"),
        (JsonLinesSource, ["train-0.jsonl", "test-0.jsonl"], ".", r"several splits \(train-0\.jsonl; test-0\.jsonl\)"),
        (JsonLinesSource, ["x/a.jsonl"], ".", r'has no \.jsonl.*\n.*path = ".*/\*\*/\*\.jsonl"'),
        (ArrowSource, ["dataset_info.json", "state.json", "data.arrow"], ".", 'save_to_disk wrote\n.*use = "disk"'),
        (JsonLinesSource, [], "https://huggingface.co/datasets/a/b/c.jsonl", 'is an address.*\n.*use = "hub"'),
        (JsonLinesSource, [], "ftp://host/c.jsonl", "ftp://host/c.jsonl: is an address"),
        (JsonLinesSource, [], "a" * 5000, "cannot be read"),
        (ParquetSource, ["a.parquet"], "a.parquet", "is empty"),
        (ArrowSource, ["a.arrow"], "a.arrow", "is empty"),
        (CsvSource, ["a.csv"], "a.csv", "has no rows"),
    ],
)
def test_what_is_not_plain_is_refused(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, source: Any, names: list[str], path: Any, said: str
) -> None:
    """With the file's name, and what to write instead."""
    monkeypatch.chdir(tmp_path)
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        source(path=path).load(run)
    assert re.search(said, str(caught.value)), str(caught.value)


def test_a_link_to_a_file_is_the_file(tmp_path: Path, run: Run) -> None:
    """So both together would be the same rows twice."""
    (tmp_path / "a.jsonl").write_text(LINE % "a")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="is the same file as"):
        JsonLinesSource(path=tmp_path).load(run)


def test_parquet_files_of_other_types_are_refused(tmp_path: Path, run: Run) -> None:
    """`datasets` would make numbers of text, "007" and all; what can be widened without a loss is."""
    for name, value in (("number", 1), ("text", "007"), ("none", None), ("fraction", 1.5)):
        Dataset.from_list([{"n": value, "text": name}]).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r'text\.parquet: the column "n" is string here, and int64 in number\.parquet'):
        ParquetSource(path=[tmp_path / "number.parquet", tmp_path / "text.parquet"]).load(run)
    rows = ParquetSource(path=[tmp_path / f"{name}.parquet" for name in ("none", "number", "fraction")]).load(run)
    assert list(rows["n"]) == [None, 1, 1.5]


def test_arrow_files_and_streams(tmp_path: Path, run: Run) -> None:
    """Both of Arrow's formats, and feather, which is the first; one that is cut short is refused."""
    import pyarrow as pa
    from pyarrow import feather

    table = pa.table({"text": ["a", "b"], "n": [[{"x": 1}], None]})
    for name, writer in (("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)):
        with pa.OSFile(str(tmp_path / f"{name}.arrow"), "wb") as file, writer(file, table.schema) as out:
            out.write_table(table)
    feather.write_feather(table, tmp_path / "more.feather")
    rows = ArrowSource(path=tmp_path).load(run)
    assert list(rows) == table.to_pylist() * 3
    whole = (tmp_path / "stream.arrow").read_bytes()
    (tmp_path / "stream.arrow").write_bytes(whole[:-200])
    with pytest.raises(InputError, match=r"stream\.arrow: cannot be read as arrow"):
        ArrowSource(path=tmp_path / "stream.arrow").load(run)
