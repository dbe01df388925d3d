"""The dataset sources for data that already is rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Features, Json
from hypothesis import given
from hypothesis import strategies as st

from loraplug import InputError, Run
from loraplug_data.hub import HubSource
from loraplug_data.reading import json_rows
from loraplug_data.sources import DiskSource, JsonLinesSource, JsonSource, ParquetSource

CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "q"}, CALL]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}], "instance_id": "two"},
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("x", outputs=tmp_path / "outputs", cache=tmp_path / "cache")


def test_nested_values_come_out_as_they_went_in(tmp_path: Path, run: Run) -> None:
    """Arrow's structs would give every tool call the keys of every other; Json columns do not."""
    (tmp_path / "a.json").write_text(json.dumps(CHATS))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in CHATS))
    for source in (JsonSource(path=tmp_path / "a.json"), JsonLinesSource(path=tmp_path / "a.jsonl")):
        rows = source.load(run)
        assert [row["messages"] for row in rows] == [row["messages"] for row in CHATS]
        assert rows["instance_id"][0] is None


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    """Many .json files are JSON Lines."""
    (tmp_path / "a.json").write_text('{"text": "1"}\n{"text": "2"}\n')
    assert [row["text"] for row in json_rows(tmp_path / "a.json")] == ["1", "2"]


def test_a_changed_file_is_read_again(tmp_path: Path, run: Run) -> None:
    """The cache goes by the file's bytes, not by its name."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "old"}\n')
    assert list(JsonLinesSource(path=path).load(run)["text"]) == ["old"]
    path.write_text('{"text": "new"}\n')
    assert list(JsonLinesSource(path=path).load(run)["text"]) == ["new"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"text": "a"},\n{"text": }]', r"a\.json:2: is not JSON"),
        (b'{"text": "a"}\n{"text"\n', r"a\.json:2: is not JSON"),
        (b'{"text": "a"}\n[1]\n', r"a\.json:2: is a list, not an object"),
        (b'["word"]', r"item 0: is text, not an object"),
        (b'"word"', "holds text, not a list"),
        (b'{"text": "\xff"}', r"a\.json:1: is not UTF-8"),
        (b"[]", "has no rows"),
        (b"", "is empty"),
        (b"[" * 100_000, "nested too deeply|is not JSON"),
    ],
)
def test_broken_files_are_told_by_file_and_line(tmp_path: Path, run: Run, content: bytes, said: str) -> None:
    """Every breakage is one of our errors."""
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        JsonSource(path=tmp_path / "a.json").load(run)
    assert re.search(said, str(caught.value))


@given(st.binary(max_size=60))
def test_any_bytes_are_rows_or_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Fuzz: no traceback of another kind."""
    path = tmp_path_factory.mktemp("fuzz") / "a.json"
    path.write_bytes(content)
    try:
        assert all(isinstance(row, dict) for row in json_rows(path))
    except InputError as error:
        assert str(path) in str(error)


def test_parquet_keeps_what_datasets_wrote(tmp_path: Path, run: Run) -> None:
    """Json columns survive parquet; what is no parquet file is refused."""
    path = tmp_path / "a.parquet"
    Dataset.from_list(
        [{"messages": row["messages"]} for row in CHATS], features=Features({"messages": Json()})
    ).to_parquet(path)
    assert [row["messages"] for row in ParquetSource(path=path).load(run)] == [row["messages"] for row in CHATS]
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="is not a parquet file"):
        ParquetSource(path=path).load(run)


def test_a_saved_data_set_is_read_by_split(tmp_path: Path, run: Run) -> None:
    """A folder of save_to_disk, with one split or several."""
    rows = Dataset.from_dict({"text": ["a", "b"]})
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "two")
    assert len(DiskSource(path=tmp_path / "one").load(run)) == 2
    assert list(DiskSource(path=tmp_path / "two", split="test").load(run)["text"]) == ["b"]
    with pytest.raises(InputError, match='has no split "dev"'):
        DiskSource(path=tmp_path / "two", split="dev").load(run)
    with pytest.raises(InputError, match="is not a saved data set"):
        DiskSource(path=tmp_path).load(run)


def test_columns_are_renamed_and_rows_limited(tmp_path: Path, run: Run) -> None:
    """`rename` makes foreign columns known; a name that is not there is refused."""
    (tmp_path / "a.jsonl").write_text('{"question": "1", "answer": "2"}\n' * 5)
    source = JsonLinesSource(
        path=tmp_path / "a.jsonl", rename={"question": "instruction", "answer": "response"}, limit=2
    )
    assert source.load(run)[0] == {"instruction": "1", "response": "2"}
    assert len(source.load(run)) == 2
    with pytest.raises(InputError, match='no column "qestion"'):
        JsonLinesSource(path=tmp_path / "a.jsonl", rename={"qestion": "instruction"}).load(run)


def test_a_hub_data_set_without_network_says_what_to_do(run: Run) -> None:
    """The error names the data set and the way out."""
    with pytest.raises(InputError, match="nobody/nothing") as caught:
        HubSource(id="nobody/nothing").load(run)
    assert "disk" in str(caught.value) or "HF_TOKEN" in str(caught.value)
