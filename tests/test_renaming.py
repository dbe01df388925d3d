"""`rename`: columns, and keys inside them, however the rows are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from loraplug import InputError, Run
from loraplug_data.sources import CsvSource, DiskSource, JsonLinesSource, ParquetSource

TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
ROWS = [{"conv": TURNS[: n % 3], "id": f"{n:03}"} for n in range(600)]
RENAME = {"conv": "messages", "conv.from": "role", "conv.value": "content"}
MEANT = [
    {"messages": [{"role": turn["from"], "content": turn["value"]} for turn in TURNS[: n % 3]], "id": f"{n:03}"}
    for n in range(600)
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("x", outputs=tmp_path / "outputs", cache=tmp_path / "cache")


def sources(folder: Path, rename: dict[str, Any], **options: Any) -> list[Any]:
    """The same rows as JSON, as Arrow's tables and as JSON in CSV."""
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Dataset.from_list(ROWS).to_parquet(folder / "a.parquet", batch_size=100)
    Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    import csv

    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("conv", "id"), *((json.dumps(row["conv"]), row["id"]) for row in ROWS)])
    made = (JsonLinesSource, "a.jsonl"), (ParquetSource, "a.parquet"), (DiskSource, "saved"), (CsvSource, "a.csv")
    return [source(path=folder / name, rename=rename, **options) for source, name in made]


def test_keys_are_renamed_alike_in_every_format(tmp_path: Path, run: Run) -> None:
    """Through lists, in all rows and in the first few."""
    for source in sources(tmp_path, RENAME):
        assert list(source.load(run)) == MEANT, source.name
    for source in sources(tmp_path, RENAME, limit=7):
        assert list(source.load(run)) == MEANT[:7], source.name


@pytest.mark.parametrize(
    "rename",
    [
        {"conv": "messages", "messages": {"from": "role", "value": "content"}},
        {"conv": "messages", "conv.from": "conv.role", "conv.value": "conv.content"},
    ],
)
def test_ways_to_say_it(tmp_path: Path, run: Run, rename: dict[str, Any]) -> None:
    """TOML makes a table of `messages.from = …`; the column may be called by its new name, the key by its whole."""
    assert list(sources(tmp_path, rename)[0].load(run)) == MEANT


def test_keys_deeper_in(tmp_path: Path, run: Run) -> None:
    """Objects in objects in lists; where a value is null, or has no such key, nothing changes."""
    rows = [{"m": [{"call": {"args": "1", "n": 2**70}}, {"call": None}, {}]}, {"m": None}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = JsonLinesSource(path=tmp_path / "a.jsonl", rename={"m.call.args": "arguments"}).load(run)["m"]
    first = json.loads(found[0]) if isinstance(found[0], str) else found[0]  # a huge number makes `datasets` keep text
    assert first == [{"call": {"arguments": "1", "n": 2**70}}, {"call": None}, {}]
    assert found[1] is None


def test_columns_change_places(tmp_path: Path, run: Run) -> None:
    """All names are given at once; one that is taken is refused rather than its column thrown away."""
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    swapped = CsvSource(path=tmp_path / "a.csv", rename={"a": "b", "b": "a"}).load(run)
    assert list(swapped) == [{"b": "1", "a": "2"}]
    with pytest.raises(InputError, match=r'that column exists already\n.*b = "other_b"'):
        CsvSource(path=tmp_path / "a.csv", rename={"a": "b"}).load(run)


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        ({"convs": "messages"}, r'no column "convs" in the data \(did you mean "conv"\?\)\n.*columns: conv, id'),
        ({"convs.from": "role"}, r'no column "convs.from"'),
        ({"conv.form": "role"}, r'no "form" in conv\n.*keys there: from, value'),
        ({"conv.from": "value"}, "objects have both keys"),
        ({"conv.from": "id.role"}, "is a key inside a column"),
    ],
)
def test_a_name_that_is_not_there_is_refused(tmp_path: Path, run: Run, rename: dict[str, str], said: str) -> None:
    """With those that are, in every format."""
    for source in sources(tmp_path, rename):
        with pytest.raises(InputError, match=said):
            source.load(run)


def test_the_same_rename_of_the_same_rows_has_the_same_name() -> None:
    """What `datasets` calls the result, so that what is cached on top of it is found again."""
    from datasets.fingerprint import Hasher

    from loraplug_data.renaming import renamed

    rows = Dataset(Dataset.from_list(ROWS).data, fingerprint="0" * 16)
    same, again = (renamed(rows, {"conv.value": "content"}, "x") for _ in range(2))
    other = renamed(rows, {"conv.value": "text"}, "x")
    assert same._fingerprint == again._fingerprint != other._fingerprint
    assert Hasher.hash(same[:]) != Hasher.hash(other[:])
