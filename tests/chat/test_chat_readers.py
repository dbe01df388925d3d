"""A conversation gives the same tokens through every source, whatever its file does to tables within tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chat_help import templates, tokenizer_for
from datasets import Dataset, Features, Image, Json, List, Value
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from loraplug import Run, iter_rows
from loraplug_chat.formatter import ChatTemplate
from loraplug_data.command import write_rows
from loraplug_data.sources import DiskSource, JsonLinesSource, JsonSource, ParquetSource

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
ARGUMENTS = {
    "query": TEXT,
    "days": st.integers(-(2**60), 2**60),
    "lat": st.floats(allow_nan=False, allow_infinity=False, width=64),
    "near": st.booleans(),
    "tags": st.lists(TEXT, min_size=1, max_size=2),
    "at": st.builds(
        lambda x, y: {"x": x} | ({} if y is None else {"y": y}), st.integers(0, 9), st.none() | st.floats(0, 1)
    ),
}
"""In one order, as Arrow has one for all rows."""


@st.composite
def turns(draw: Any) -> list[dict[str, Any]]:
    """A question and what follows: an answer, or calls, their results and an answer, with keys that others lack."""
    asked = {"role": "user", "content": draw(TEXT)} | ({"name": draw(TEXT)} if draw(st.booleans()) else {})
    said = {"role": "assistant", "content": draw(TEXT)}
    if draw(st.booleans()):
        said["weight"] = draw(st.sampled_from([0.0, 0.5, 1.0]))
    if draw(st.booleans()):
        return [asked, said]
    messages = [asked, {"role": "assistant", "content": draw(st.none() | TEXT), "tool_calls": []}]
    for number in range(draw(st.integers(1, 2))):
        wanted = draw(st.sets(st.sampled_from(sorted(ARGUMENTS))))
        arguments = {key: draw(values) for key, values in ARGUMENTS.items() if key in wanted}
        call = {"id": f"call{number}", "type": "function", "function": {"name": "search", "arguments": arguments}}
        messages[1]["tool_calls"].append(call)
        messages.append({"role": "tool", "content": draw(TEXT), "tool_call_id": f"call{number}"})
    return [*messages, said]


FULL: list[dict[str, Any]] = [
    {"role": "user", "content": "q", "name": "n"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "i", "type": "function", "function": {
        "name": "search", "arguments": {"query": "q", "days": 1, "lat": 0.1234567890123456, "near": True, "tags": ["t"],
                                        "at": {"x": 1, "y": 0.5}}}}]},
    {"role": "tool", "content": "r", "tool_call_id": "i"},
    {"role": "assistant", "content": "a", "weight": 0.5},
]  # fmt: skip


def thousand() -> list[dict[str, Any]]:
    """1,000 rows drawn by hypothesis, behind one that has every key."""
    rows = [{"messages": FULL}]

    @settings(max_examples=1000, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.lists(turns(), min_size=1, max_size=3))
    def draw(drawn: list[list[dict[str, Any]]]) -> None:
        rows.append({"messages": [message for part in drawn for message in part]})

    draw()
    return rows


def test_a_thousand_conversations_are_the_same_through_every_source(tmp_path: Path, run: Run) -> None:
    """json, jsonl, parquet with structs, parquet as `loraplug data` writes it, and disk: the same ids and weights."""
    rows = thousand()
    assert len(rows) > 900
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "structs.parquet")
    write_rows(rows, tmp_path / "ours.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "disk")
    sources = [
        JsonSource(path=tmp_path / "rows.json"),
        JsonLinesSource(path=tmp_path / "rows.jsonl"),
        ParquetSource(path=tmp_path / "structs.parquet"),
        ParquetSource(path=tmp_path / "ours.parquet"),
        DiskSource(path=tmp_path / "disk"),
    ]
    tokenizer = tokenizer_for(templates()["qwen2_5"])
    formatter = ChatTemplate(packing=False, max_dropped=1)
    first = formatter.encode(sources[0].load(run), tokenizer, run).dataset
    assert len(first) > 600  # the others have nothing that is trained
    for source in sources[1:]:
        made = formatter.encode(source.load(run), tokenizer, run).dataset
        assert made["row"][:] == first["row"][:]
        assert made["input_ids"][:] == first["input_ids"][:], source
        assert made["token_weights"][:] == first["token_weights"][:], source


def test_nulls_that_a_row_wrote_stay() -> None:
    """In `Json`, at any depth; Arrow's own, in structs at any depth, are taken out; nulls in lists stay."""
    written = [
        {"json": {"a": None, "b": [None, {"c": None}]}, "table": {"x": 1, "y": {"z": None}}, "list": [{"p": 1}, None]},
        {"json": None, "table": {"y": {"z": "t"}}, "list": [{"q": [None, 2]}]},
    ]
    features = Features(
        {
            "json": Json(),
            "table": {"x": Value("int64"), "y": {"z": Value("string")}, "j": Json()},
            "list": List({"p": Value("int64"), "q": List(Value("int64"))}),
        }
    )
    rows = Dataset.from_list(written, features=features)
    assert rows[1]["table"] == {"x": None, "y": {"z": "t"}, "j": None}
    assert list(iter_rows(rows)) == [{**written[0], "table": {"x": 1, "y": {}}}, written[1]]


def test_nulls_are_taken_out_of_their_own_tables() -> None:
    """Tables and lists that are null themselves, between others, at any depth: no row gets or loses another's keys."""
    written: list[dict[str, Any]] = [
        {"top": {"a": {"x": 1}, "b": [{"p": 1}, None, {"q": {"r": 2}}]}},
        {"top": {"b": []}},
        {"top": {"a": {"y": {"z": "t"}}, "j": {"k": None}}},
        {"top": {"a": {"x": 2, "y": {"w": 3}}, "b": [{"q": {"s": [None, 4]}}, {"p": 5, "q": {"r": 6}}], "j": [1]}},
    ]
    inner = {"x": Value("int64"), "y": {"z": Value("string"), "w": Value("int64")}}
    listed = List({"p": Value("int64"), "q": {"r": Value("int64"), "s": List(Value("int64"))}})
    features = Features({"top": {"a": inner, "b": listed, "j": Json()}})
    rows = Dataset.from_list([*written, {"top": None}], features=features)
    assert list(iter_rows(rows.select([4, 0, 1, 2, 3]))) == [{"top": None}, *written]
    assert list(iter_rows(rows.select(range(1, 3)))) == written[1:3]


def test_numbers_keep_their_digits(tmp_path: Path, run: Run) -> None:
    """Through JSON lines and back, in columns of tables: `datasets` alone rounds them to ten places."""
    row = {"messages": [{"n": 0.1234567890123456, "big": 2**63, "text": "123", "u": "é/\u2028"}], "mixed": "5"}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in (row, row | {"mixed": 5})), encoding="utf-8")
    assert list(iter_rows(JsonLinesSource(path=path).load(run))) == [row, row | {"mixed": 5}]


def test_pictures_are_not_decoded() -> None:
    """A column of pictures is refused later, and need not be opened for that."""
    rows = Dataset.from_list(
        [{"image": {"path": "no-such-file.png", "bytes": None}}], features=Features({"image": Image()})
    )
    (row,) = iter_rows(rows)
    assert row["image"]["path"] == "no-such-file.png"


@pytest.mark.parametrize("form", ["table", "text"])
def test_calls_as_text_and_as_tables_are_the_same_through_parquet(tmp_path: Path, run: Run, form: str) -> None:
    """What parquet does to tables of arguments is undone; text is read."""
    rows = [json.loads(json.dumps({"messages": FULL})) for _ in range(2)]
    rows[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] = {"other": None, "days": 2}
    if form == "text":
        for row in rows:
            function = row["messages"][1]["tool_calls"][0]["function"]
            function["arguments"] = json.dumps(function["arguments"])
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    tokenizer = tokenizer_for(templates()["qwen3"])
    encoded = (
        ChatTemplate(packing=False)
        .encode(ParquetSource(path=tmp_path / "rows.parquet").load(run), tokenizer, run)
        .dataset
    )
    texts = [tokenizer.decode(row["input_ids"]) for row in encoded]
    assert '"lat": 0.1234567890123456' in texts[0]
    assert ('"arguments": {"other": null, "days": 2}' if form == "text" else '"arguments": {"days": 2}') in texts[1]
