"""Row shapes and the conversations they become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loraplug import InputError, conversation, shape_of

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("row", "shape", "messages"),
    [
        ({"messages": [USER, ASSISTANT]}, "messages", [USER, ASSISTANT]),
        ({"messages": json.dumps([USER, ASSISTANT])}, "messages", [USER, ASSISTANT]),
        ({"instruction": "q", "response": "a"}, "instruction-response", [USER, ASSISTANT]),
        (
            {"instruction": "q", "input": "x", "output": "a", "system": "s"},
            "instruction-response",
            [{"role": "system", "content": "s"}, {"role": "user", "content": "q\n\nx"}, ASSISTANT],
        ),
        ({"prompt": "q", "completion": "a"}, "prompt-completion", [USER | {"weight": 0.0}, ASSISTANT]),
        (
            {"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT]},
            "prompt-completion",
            [USER | {"weight": 0.0}, ASSISTANT | {"weight": 0.0}, USER | {"weight": 0.0}, ASSISTANT],
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "sharegpt",
            [USER, ASSISTANT],
        ),
        (
            {"conversations": [{"from": "function_call", "value": '{"name": "f", "arguments": {}}'}]},
            "sharegpt",
            [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
                }
            ],
        ),
    ],
)
def test_every_shape_becomes_the_same_conversation(row: dict[str, Any], shape: str, messages: list[Any]) -> None:
    """The table in the module's docstring, shape by shape."""
    assert shape_of(row) == shape
    assert conversation(row, shape, 0).messages == messages


def test_unknown_columns_are_told_with_what_is_accepted() -> None:
    """What was seen, and what would do."""
    with pytest.raises(InputError, match="columns seen: answer, question") as caught:
        shape_of(["question", "answer"])
    assert "instruction + response" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"messages": None, "task_id": "t-1"}, "messages"),
        ({"messages": [], "task_id": "t-1"}, "messages"),
        ({"messages": ["text"], "task_id": "t-1"}, "messages"),
        ({"messages": [{"content": "x"}], "task_id": "t-1"}, "messages"),
        ({"messages": "not json", "task_id": "t-1"}, "messages"),
        ({"instruction": 3, "response": "a", "task_id": "t-1"}, "instruction-response"),
        ({"instruction": "q", "response": None, "task_id": "t-1"}, "instruction-response"),
        ({"conversations": [{"from": "martian", "value": "q"}], "task_id": "t-1"}, "sharegpt"),
        ({"conversations": [{"who": "human"}], "task_id": "t-1"}, "sharegpt"),
    ],
)
def test_a_broken_row_is_named(row: dict[str, Any], shape: str) -> None:
    """One clear error with the row's id, never a bare KeyError."""
    with pytest.raises(InputError) as caught:
        conversation(row, shape, 7)
    assert caught.value.where == "t-1"


def test_real_chat_rows() -> None:
    """Every row of the shared chat data becomes a conversation."""
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    for name in ("alpaca_en_demo.json", "glaive_toolcall_en_demo.json", "identity.json"):
        data = json.loads((SHARED / name).read_text(encoding="utf-8"))
        shape = shape_of(data[0])
        for index, row in enumerate(data):
            assert conversation(row, shape, index).messages
