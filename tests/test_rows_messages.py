"""What data sets write in the place of one message, call, mask or tool, and the one form it is read as."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from loraplug import InputError, conversation, shape_of

CALL = {"type": "function", "function": {"name": "search", "arguments": {"query": "rain", "days": 3}}}
NAMED = {"name": "search", "arguments": {"query": "rain", "days": 3}}
USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def read(*messages: Any, **columns: Any) -> Any:
    """A messages row as a conversation."""
    return conversation({"messages": list(messages), **columns}, "messages", 0)


def refusal(*messages: Any, **columns: Any) -> InputError:
    """What is said of a row that cannot be read."""
    with pytest.raises(InputError) as caught:
        read(*messages, **columns, id="the row")
    assert caught.value.where == "the row"
    assert caught.value.todo
    assert not any(word in str(caught.value) for word in ("Error", "None", " dict", "str ", "NoneType", "Traceback"))
    return caught.value


@pytest.mark.parametrize(
    "said",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": CALL},
        {"role": "assistant", "content": None, "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "content": None, "tool_calls": [json.dumps(CALL)]},
        {"role": "assistant", "content": None, "tool_calls": [NAMED]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "search", "parameters": NAMED["arguments"]}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": "search", "arguments": NAMED["arguments"]}]},
        {"role": "assistant", "content": None, "tool_calls": [{**CALL, "function": {**NAMED, "parameters": None}}]},
        {"role": "assistant", "content": None, "function_call": NAMED},
        {"role": "assistant", "content": None, "function_call": NAMED, "tool_calls": [CALL]},
        {"role": "assistant", "content": None, "function_call": NAMED | {"arguments": json.dumps(NAMED["arguments"])}},
        {"role": "assistant", "content": None, "function_call": NAMED | {"arguments": str(NAMED["arguments"])}},
        {"role": "gpt", "function_call": json.dumps(NAMED)},
        {"from": "function_call", "value": json.dumps(NAMED)},
        {"from": "function_call", "value": str(NAMED)},
        {"from": "function_call", "value": f"[{NAMED}]"},
        {"from": "function_call", "value": NAMED},
        {"from": "tool_call", "value": json.dumps(CALL)},
        {"from": "function-call", "value": json.dumps(NAMED | {"arguments": json.dumps(NAMED["arguments"])})},
        {"from": "function_call", "value": json.dumps(NAMED | {"arguments": json.dumps(str(NAMED["arguments"]))})},
    ],
)
def test_a_call_is_read_as_one_form(said: dict[str, Any]) -> None:
    """Text, table or list, with or without a wrapping, legacy or not; an empty content beside it is null."""
    talk = read(USER, said)
    assert talk.messages[1] == {"role": "assistant", "content": None, "tool_calls": [CALL]}


def test_arguments_keep_their_values_and_order() -> None:
    """Null, fractions, long numbers and order stay as they were written, given as text or as a table."""
    given = {"z": None, "a": 0.1234567890123456, "n": 2**70, "l": [True, None, {"k": "ü"}], "t": "1"}
    for arguments in (given, json.dumps(given), json.dumps(given, ensure_ascii=False), repr(given)):
        call = {"function": {"name": "f", "arguments": arguments}}
        found = read({"role": "assistant", "tool_calls": [call]}).messages[0]["tool_calls"][0]["function"]["arguments"]
        assert found == given
        assert list(found) == list(given)


def test_parallel_calls_name_their_results() -> None:
    """Results of tools get the name of the call they answer: by id in any order, else one after the other."""
    calls = [{"id": name, "function": {"name": f"tool_{name}", "arguments": {}}} for name in "ab"]
    results = [{"role": "tool", "tool_call_id": name, "content": name} for name in "ba"]
    talk = read(USER, {"role": "assistant", "content": None, "tool_calls": calls}, *results)
    assert [message.get("name") for message in talk.messages[2:]] == ["tool_b", "tool_a"]
    assert [call["id"] for call in talk.messages[1]["tool_calls"]] == ["a", "b"]
    plain = [{key: call[key] for key in ("function",)} for call in calls]
    results = [{"role": "function", "content": "1"}, {"role": "ipython", "content": {"t": 3}}]
    talk = read(USER, {"role": "assistant", "content": None, "tool_calls": plain}, *results)
    assert talk.messages[2:] == [
        {"role": "tool", "content": "1", "name": "tool_a"},
        {"role": "tool", "content": '{"t": 3}', "name": "tool_b"},
    ]


TOOL = {"name": "search", "description": "d", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "columns",
    [
        {"tools": [{"type": "function", "function": TOOL}]},
        {"tools": [TOOL]},
        {"tools": TOOL},
        {"tools": json.dumps([TOOL])},
        {"tools": [json.dumps(TOOL)]},
        {"tools": str([TOOL])},
        {"tools": [{"type": "function", **TOOL}]},
        {"functions": [TOOL]},
        {"functions": json.dumps([TOOL]), "tools": []},
    ],
)
def test_tools_are_read_as_one_form(columns: dict[str, Any]) -> None:
    """Schemas bare or wrapped, as text or not, under the old name or the new one."""
    assert read(USER, ASSISTANT, **columns).tools == [{"type": "function", "function": TOOL}]


@pytest.mark.parametrize(("tools"), [None, "", [], "[]", "  "])
def test_no_tools_are_none(tools: Any) -> None:
    """An empty list says what null says."""
    assert read(USER, ASSISTANT, tools=tools).tools is None


@pytest.mark.parametrize("key", ["weight", "train", "loss", "training", "loss_weight", "Weight", "TRAIN"])
@pytest.mark.parametrize("value", [0, False, 0.0, "0", "false", "False", " 0.0 "])
def test_what_is_not_to_be_trained_has_the_weight_0(key: str, value: Any) -> None:
    """All keys and values that say so, on messages, on turns and behind a prompt."""
    assert read(USER, ASSISTANT | {key: value}).messages[1] == ASSISTANT | {"weight": 0.0}
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", key: value}]
    assert conversation({"conversations": turns}, "sharegpt", 0).messages == [USER, ASSISTANT | {"weight": 0.0}]
    row = {"prompt": "q", "completion": [ASSISTANT | {key: value}, ASSISTANT]}
    assert [m.get("weight") for m in conversation(row, "prompt-completion", 0).messages] == [0.0, 0.0, None]


@pytest.mark.parametrize("mask", [{"weight": 1}, {"train": True}, {"loss": "true"}, {"weight": None}, {"training": 1}])
def test_what_is_trained_as_ever_has_no_weight(mask: dict[str, Any]) -> None:
    """The key is there only where it is not 1."""
    assert read(USER, ASSISTANT | mask).messages[1] == ASSISTANT


def test_fractions_are_weights() -> None:
    """Also as text, also above 1, also beside a key that says to train."""
    for mask in ({"weight": 0.5}, {"loss_weight": "0.5"}, {"weight": 0.5, "train": True}, {"weight": "5e-1"}):
        assert read(USER, ASSISTANT | mask).messages[1]["weight"] == 0.5
    assert read(USER, ASSISTANT | {"weight": 2}).messages[1]["weight"] == 2.0


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"weight": -1}, "not a weight"),
        ({"weight": math.nan}, "not a weight"),
        ({"weight": math.inf}, "not a weight"),
        ({"weight": "much"}, "not a weight"),
        ({"weight": [1]}, "not a weight"),
        ({"weight": 10**400}, "not a weight"),
        ({"weight": ""}, "not a weight"),
        ({"train": 0.5}, "neither true nor false"),
        ({"loss": 2.31}, "neither true nor false"),
        ({"weight": 0, "train": True}, "contradict"),
        ({"weight": 0.5, "train": False}, "contradict"),
        ({"weight": 0.5, "loss_weight": 0.25}, "contradict"),
        ({"train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]}, "is not supported"),
        ({"mask": True}, "is not supported"),
        ({"loss_mask": [0, 1]}, "is not supported"),
        ({"content": [{"type": "text", "text": "a", "train": False}]}, "whole messages only"),
        ({"content": None, "tool_calls": [{**CALL, "weight": 0}]}, "whole messages only"),
    ],
)
def test_masks_that_say_nothing_clear_refuse_the_row(mask: dict[str, Any], words: str) -> None:
    """Negative, NaN, contradictory, or of a kind that cannot be had."""
    assert words in refusal(USER, ASSISTANT | mask).what


@pytest.mark.parametrize("key", ["weight", "train", "loss", "mask", "loss_mask", "Train"])
def test_masks_on_a_row_refuse_it(key: str) -> None:
    """They have no meaning there, in no shape; one that says to train everything does no harm."""
    rows = [
        {"messages": [USER, ASSISTANT]},
        {"instruction": "q", "output": "a"},
        {"prompt": "q", "completion": "a"},
        {"conversations": [USER, ASSISTANT]},
    ]
    for row in rows:
        with pytest.raises(InputError, match="on the whole row") as caught:
            conversation({**row, key: 0}, shape_of(row), 0)
        assert "rename" in str(caught.value)
        conversation({**row, key: None}, shape_of(row), 0)
    if "mask" not in key:
        assert read(USER, ASSISTANT, **{key: 1}).messages == [USER, ASSISTANT]


@pytest.mark.parametrize(
    ("written", "role"),
    [
        ("human", "user"), ("User", "user"), ("prompter", "user"), ("gpt", "assistant"), ("Assistant", "assistant"),
        ("model", "assistant"), ("bot", "assistant"), ("ASSISTANT ", "assistant"), ("chatgpt", "assistant"),
        ("System", "system"), ("observation", "tool"), ("ipython", "tool"), ("function", "tool"),
        ("tool-response", "tool"),
    ],
)  # fmt: skip
def test_roles_by_other_names(written: str, role: str) -> None:
    """Read as what they are, under `role` and under `from`; what was read as what is kept to be told."""
    for turn in ({"role": written, "content": "x"}, {"from": written, "value": "x"}, {"from": written, "content": "x"}):
        talk = read(USER, turn)
        assert talk.messages[1] == {"role": role, "content": "x"}
        assert dict(talk.roles) == {written: role}


def test_an_unknown_role_is_an_unknown_role() -> None:
    """Not a missing key, nor a control token; the roles there are are named."""
    error = refusal(USER, {"role": "narrator", "content": "x"})
    assert error.what == "unknown role 'narrator'"
    assert "assistant" in error.todo
    error = refusal({"speaker": "Ann", "content": "x"})
    assert error.what == "a message has no role (keys: content, speaker)"
    assert 'rename = { messages.speaker = "role" }' in error.todo
    assert 'rename = { messages.text = "content" }' in refusal({"role": "user", "text": "x"}).todo


def test_parts_of_text_are_joined() -> None:
    """Of all the types that mean text; further keys of parts are noted."""
    parts = ["a", {"type": "text", "text": "b"}, {"text": "c"}, {"type": "input_text", "text": "d", "cache": {"x": 1}}]
    talk = read(USER | {"content": parts}, ASSISTANT | {"content": []})
    assert [message["content"] for message in talk.messages] == ["abcd", ""]
    assert talk.unread == {"content[].cache"}


@pytest.mark.parametrize(
    ("message", "columns", "words"),
    [
        ({"content": [{"type": "image", "image": "a.png"}]}, {}, "an image"),
        ({"content": [{"type": "image_url", "image_url": "u"}, {"type": "text", "text": "t"}]}, {}, "an image"),
        ({"content": [{"type": "input_audio", "input_audio": {}}]}, {}, "audio"),
        ({"content": [{"type": "video", "video": "v"}]}, {}, "a video"),
        ({"content": [{"type": "text", "text": "t", "image": "x"}]}, {}, "image"),
        ({"content": [{"type": "tool_use", "id": "1"}]}, {}, "unknown type 'tool_use'"),
        ({"content": {"text": "x"}}, {}, "a table, not text"),
        ({"content": 3}, {}, "a number, not text"),
        ({"content": "<image>what?", "images": ["a.png"]}, {}, 'key "images"'),
        ({}, {"images": ["cat.jpg"]}, 'key "images"'),
        ({}, {"image": {"bytes": "…"}}, 'key "image"'),
        ({}, {"audios": ["a.wav"]}, 'key "audios"'),
        ({}, {"Video": "a.mp4"}, 'key "Video"'),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused_by_name(message: dict[str, Any], columns: dict[str, Any], words: str) -> None:
    """Images, audio, video, unknown parts, and values that are no text."""
    assert words in refusal(USER | message, ASSISTANT, **columns).what


def test_empty_columns_of_images_do_no_harm() -> None:
    """Many data sets of text have them."""
    talk = read(
        USER | {"content": "<image> is an HTML-like word"}, ASSISTANT, images=[None], audio=None, videos="", image={}
    )
    assert talk.messages[0]["content"] == "<image> is an HTML-like word"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([USER, {"role": "assistant", "content": None}], "no content and no tool calls"),
        ([USER, {"role": "assistant"}], "no content and no tool calls"),
        ([USER, {"role": "assistant", "content": None, "tool_calls": []}], "no content and no tool calls"),
        ([{"role": "user"}, ASSISTANT], "a message (user) has no content"),
        ([USER | {"from": "gpt"}, ASSISTANT], 'both "role" and "from"'),
        ([USER | {"value": "other"}, ASSISTANT], 'both "content" and "value"'),
        ([USER | {"tool_calls": [CALL]}, ASSISTANT], "only the assistant may"),
        ([USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}], "has no name"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "rain"}]}], "not JSON: 'rain'"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}], "a list, not an object"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a":1,"a":2}'}]}], "written twice"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[" * 5000}]}], "nested too deeply"),
        ([USER, {"from": "function_call", "value": None}], "not a list of calls"),
        ([USER, {"from": "function_call", "value": "null"}], "no content and no tool calls"),
        ([USER, ASSISTANT | {"function_call": NAMED, "tool_calls": [{"name": "x"}]}], "two different lists"),
        (["text"], "a message is text, not an object"),
    ],
)
def test_refusals_say_the_cause(messages: list[Any], words: str) -> None:
    """What is wrong in plain words, with the row's id and what to do; never Python's words."""
    assert words in refusal(*messages).what


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": None}, "messages is missing"),
        ({"messages": "not json"}, "messages is text, but not JSON"),
        ({"messages": {"role": "user"}}, "messages is a table, not a list"),
        ({"instruction": "q", "output": "a", "input": ["x"]}, "input is a list, not text"),
        ({"instruction": "q", "output": "a", "input": {"x": 1}}, "input is a table, not text"),
        ({"instruction": "q", "output": "a", "response": "b"}, "both response and output"),
        ({"instruction": "q", "output": "a", "history": ["q", "a"]}, "pairs of question and answer"),
        ({"instruction": "q", "output": "a", "history": [["q"]]}, "pairs of question and answer"),
        ({"instruction": "q", "output": "a", "history": [["q", None]]}, "pairs of question and answer"),
        ({"instruction": "q", "output": None}, "response is missing"),
        ({"prompt": None, "completion": "a"}, "prompt is missing"),
        ({"prompt": "q", "completion": 3}, "completion is a number"),
        ({"conversations": [{"from": "human"}]}, "a message (human) has no content"),
        ({"messages": [USER, ASSISTANT], "tools": [3]}, "not a list of objects"),
        ({"messages": [USER, ASSISTANT], "tools": [TOOL], "functions": [TOOL | {"name": "x"}]}, "tools and functions"),
    ],
)
def test_rows_that_cannot_be_read_say_why(row: dict[str, Any], words: str) -> None:
    """Columns of the wrong type, by name."""
    with pytest.raises(InputError) as caught:
        conversation({**row, "task_id": "t-1"}, shape_of(row), 7)
    assert words in caught.value.what
    assert caught.value.where == "t-1"


def test_other_shapes_are_read_as_messages_are() -> None:
    """Turns with role and content under `conversations`, a system column, messages as text of Python."""
    assert conversation({"conversations": [USER, ASSISTANT]}, "sharegpt", 0).messages == [USER, ASSISTANT]
    system = {"role": "system", "content": "s"}
    for row in ({"messages": [USER, ASSISTANT], "system": "s"}, {"messages": [system, USER, ASSISTANT], "system": "s"}):
        assert conversation(row, "messages", 0).messages == [system, USER, ASSISTANT]
    assert conversation({"messages": str([USER, ASSISTANT])}, "messages", 0).messages == [USER, ASSISTANT]
    stored = {"from": ["human", "gpt"], "value": ["q", "a"], "weight": [None, 0.0]}  # as older data sets store lists
    expected = [USER, ASSISTANT | {"weight": 0.0}]
    assert conversation({"conversations": stored}, "sharegpt", 0).messages == expected
    row = {"instruction": "q", "input": "", "output": "a", "history": "[['x', 'y']]", "response": None}
    assert [m["content"] for m in conversation(row, "instruction-response", 0).messages] == ["x", "y", "q", "a"]


def test_keys_are_passed_on_and_noted() -> None:
    """What no reader reads stays in the message, where a template may read it, and is noted; our own mark is not."""
    talk = read(
        USER | {"name": "Ann", "cuttable": True, "empty": ""}, ASSISTANT | {"tool_calls": [CALL | {"index": 0}]}
    )
    assert talk.messages[0] == USER | {"name": "Ann", "cuttable": True, "empty": ""}
    assert talk.unread == {"name", "tool_calls[].index"}


def test_columns_that_look_like_a_shape_tell_what_to_rename() -> None:
    """The very line for the recipe, and for preference rows what they are."""
    with pytest.raises(InputError, match=r'rename = \{ question = "instruction", answer = "response" \}'):
        shape_of(["question", "answer"])
    with pytest.raises(InputError, match=r'rename = \{ dialogue = "messages" \}'):
        shape_of(["dialogue", "id"])
    with pytest.raises(InputError, match=r"preference rows \(chosen, rejected\)") as caught:
        shape_of(["prompt", "chosen", "rejected"])
    assert 'chosen = "completion", rejected = "their_rejected"' in str(caught.value)
