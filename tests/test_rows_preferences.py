"""Rows that judge answers: what they may hold, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from loraplug import InputError, labelled, preference, shape_of

ASK = {"role": "user", "content": "What colour is the sky?"}
BLUE, GREEN = ({"role": "assistant", "content": f"It is {colour}."} for colour in ("blue", "green"))
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "id": "c1", "function": {"name": "look", "arguments": {"where": "up"}}}
SEEN = {"role": "tool", "tool_call_id": "c1", "content": "blue"}


def said(messages: list[dict[str, Any]]) -> list[tuple[str, Any, float]]:
    """Role, content and weight of each message."""
    return [(each["role"], each["content"], each.get("weight", 1)) for each in messages]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": ASK["content"], "chosen": BLUE["content"], "rejected": GREEN["content"]}, 1),
        ({"prompt": [ASK], "chosen": [BLUE], "rejected": [GREEN]}, 1),
        ({"chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}, 1),
        ({"prompt": None, "chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}, 1),
        ({"prompt": ASK["content"], "chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}, 1),
        ({"system": SYSTEM["content"], "prompt": [ASK], "chosen": [BLUE], "rejected": [GREEN]}, 2),
        ({"system": SYSTEM["content"], "chosen": [SYSTEM, ASK, BLUE], "rejected": [SYSTEM, ASK, GREEN]}, 2),
        ({"prompt": [ASK, GREEN, ASK], "chosen": [BLUE, ASK, BLUE], "rejected": [GREEN]}, 3),
    ],
)
def test_the_prompt_is_found_and_not_trained(row: dict[str, Any], prompt: int) -> None:
    """Given, or what both sides begin with."""
    assert shape_of(row, "pairs") == "preference"
    made = preference({**row, "id": "p-1"}, 0)
    assert made.prompt == prompt
    for side in (made.chosen, made.rejected):
        assert [weight for _, _, weight in said(side.messages)] == [0] * prompt + [1] * (len(side.messages) - prompt)
    assert made.chosen.messages[prompt]["content"] == BLUE["content"]
    assert made.rejected.messages[prompt]["content"] == GREEN["content"]
    assert made.chosen.messages[:prompt] == made.rejected.messages[:prompt]


def test_sides_of_several_turns_share_what_both_begin_with() -> None:
    """A shared call of a tool belongs to the prompt, its result keeps the name of the tool."""
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    made = preference({"chosen": [ASK, call, SEEN, BLUE], "rejected": [ASK, call, SEEN, GREEN]}, 0)
    assert made.prompt == 3
    assert made.rejected.messages[2]["name"] == "look"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ({"chosen": [ASK, BLUE], "rejected": [ASK, BLUE]}, "chosen and rejected are the same"),
        ({"prompt": "q", "chosen": "a"}, "rejected is missing"),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, "chosen is missing"),
        ({"chosen": "q a", "rejected": "q b"}, "prompt is missing"),
        ({"chosen": [ASK, BLUE], "rejected": [{**ASK, "content": "?"}, GREEN]}, "prompts of chosen and"),
        ({"chosen": [ASK, BLUE, ASK, BLUE], "rejected": [ASK, BLUE, {**ASK, "content": "?"}, GREEN]}, "prompts of"),
        ({"prompt": "other", "chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}, "another prompt than the column prompt"),
        ({"prompt": [ASK], "chosen": [ASK, BLUE], "rejected": [GREEN]}, "rejected begins with another prompt"),
        ({"prompt": [ASK], "chosen": [SEEN], "rejected": [GREEN]}, "another prompt"),
        ({"chosen": [ASK, BLUE], "rejected": [ASK, BLUE, ASK, GREEN]}, "chosen has no answer after"),
        ({"chosen": [BLUE], "rejected": [GREEN]}, "has no prompt"),
        ({"prompt": "q", "chosen": [{**BLUE, "weight": 0.5}], "rejected": [GREEN]}, "weight other than 0 and 1"),
        ({"prompt": "q", "chosen": [{"content": "x"}], "rejected": [GREEN]}, "no role"),
    ],
)
def test_a_broken_pair_is_named(row: dict[str, Any], words: str) -> None:
    """One clear error with the row's id."""
    with pytest.raises(InputError, match=words) as caught:
        preference({**row, "task_id": "t-1"}, 7)
    assert caught.value.where == "t-1"
    assert caught.value.todo


@pytest.mark.parametrize(("label", "meant"), [(True, True), (0, False), ("false", False), (1.0, True), (-1, False)])
def test_labels(label: Any, meant: bool) -> None:
    """The words for yes and no."""
    row = {"prompt": "q", "completion": "a", "label": label}
    assert shape_of(row, "labelled") == "labelled"
    made = labelled(row, 0)
    assert made.label is meant
    assert said(made.talk.messages) == [("user", "q", 0), ("assistant", "a", 1)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "q", "completion": "a", "label": None}, "not true or false"),
        ({"prompt": "q", "completion": "a", "label": 0.7}, "not true or false"),
        ({"prompt": "q", "completion": [ASK, BLUE], "label": True}, "begins with a message of role user"),
        ({"prompt": "q", "completion": None, "label": True}, "completion is missing"),
        ({"prompt": "q", "completion": [], "label": True}, "completion is empty"),
    ],
)
def test_a_broken_labelled_row_is_named(row: dict[str, Any], words: str) -> None:
    """One clear error with the row's id."""
    with pytest.raises(InputError, match=words) as caught:
        labelled({**row, "task_id": "t-1"}, 7)
    assert caught.value.where == "t-1"


def test_columns_of_another_kind_are_told() -> None:
    """What is missing, and which trainers such rows are for."""
    with pytest.raises(InputError, match="no preference rows: chosen and rejected missing; columns seen: messages"):
        shape_of(["messages"], "pairs")
    with pytest.raises(InputError, match="no labelled rows: completion and label missing") as caught:
        shape_of(["prompt", "chosen", "rejected"], "labelled")
    assert "for another trainer" in str(caught.value)
