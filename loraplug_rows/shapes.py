"""The row shapes a dataset source may yield, and the one conversation they become.

    messages               messages = [{role, content, tool_calls…}], optional tools
    prompt / completion    as text or as lists of messages; the completion is trained
    sharegpt               conversations = [{from, value}], optional system, tools
    instruction / response instruction, optional input, response or output, optional system and history
    text                   text, trained on whole; no conversation

The shape is recognised once per data set, by its columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from loraplug_tables.errors import InputError

Row = Mapping[str, Any]
Message = dict[str, Any]

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
}
_ACCEPTED = (
    "messages; prompt + completion; conversations (sharegpt); instruction + response (or output); text "
    "(rename columns in the data, or write a dataset source plugin)"
)


@frozen
class Conversation:
    """One training example.

    Attributes:
        id: names the row in messages to the user.
        messages: at least one, each with `role` and usually `content`; a message with `train: False` is not trained.
        tools: tool schemas for the chat template, if any.
    """

    id: str
    messages: list[Message]
    tools: list[Any] | None = None


def shape_of(columns: Iterable[str]) -> str:
    """Name the shape of rows with these columns.

    Raises:
        InputError: none of the accepted shapes; tells what was seen.
    """
    have = set(columns)
    if "messages" in have:
        return "messages"
    if {"prompt", "completion"} <= have:
        return "prompt-completion"
    if "conversations" in have:
        return "sharegpt"
    if "instruction" in have and have & {"response", "output"}:
        return "instruction-response"
    if "text" in have:
        return "text"
    seen = ", ".join(sorted(have)) or "no columns"
    raise InputError(f"rows of no known shape; columns seen: {seen}", todo=f"accepted: {_ACCEPTED}")


def row_id(row: Row, index: int) -> str:
    """What to call a row: its instance_id, task_id or id, else `row 12` (counted from 0)."""
    for key in ("instance_id", "task_id", "id"):
        if (value := row.get(key)) is not None and value != "":
            return str(value)
    return f"row {index}"


def conversation(row: Row, shape: str, index: int) -> Conversation:
    """The row as a conversation.

    Raises:
        InputError: a value is of the wrong type, empty or missing, naming the row.
    """
    name = row_id(row, index)
    try:
        messages = _READERS[shape](row)
        if not messages:
            raise InputError("has no messages")
        for message in messages:
            if not isinstance(message.get("role"), str):
                raise InputError(f"a message has no role: {str(message)[:80]!r}")
        tools = row.get("tools")
        if isinstance(tools, str):
            tools = json.loads(tools) if tools.strip() else None
    except InputError as error:
        raise InputError(error.what, where=name, todo=f"mend the row in the data; expected shape: {shape}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"not a {shape} row ({error!r})", where=name, todo="mend the row in the data") from None
    return Conversation(name, messages, tools or None)


def _message(value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise InputError(f"a message is {type(value).__name__}, not a table of role and content")
    return {key: item for key, item in value.items() if item is not None or key == "content"}


def _text(row: Row, *keys: str) -> str:
    for key in keys:
        if (value := row.get(key)) is not None:
            if not isinstance(value, str):
                raise InputError(f"{key} is {type(value).__name__}, not text")
            return value
    raise InputError(f"{keys[0]} is missing")


def _from_messages(row: Row) -> list[Message]:
    value = row["messages"]
    if isinstance(value, str):
        value = json.loads(value)
    return [_message(message) for message in value]


def _from_prompt_completion(row: Row) -> list[Message]:
    prompt, completion = row["prompt"], row["completion"]
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [_message(m) for m in prompt]
    after = (
        [{"role": "assistant", "content": completion}]
        if isinstance(completion, str)
        else [_message(m) for m in completion]
    )
    return [*({**message, "train": False} for message in before), *after]


def _from_sharegpt(row: Row) -> list[Message]:
    messages: list[Message] = []
    if row.get("system"):
        messages.append({"role": "system", "content": _text(row, "system")})
    for turn in row["conversations"]:
        speaker, value = turn["from"], turn["value"]
        if speaker == "function_call":
            messages.append({"role": "assistant", "content": "", "tool_calls": _tool_calls(value)})
        elif speaker in _SHAREGPT_ROLES:
            messages.append({"role": _SHAREGPT_ROLES[speaker], "content": value})
        else:
            raise InputError(f"unknown speaker {speaker!r}; known: {', '.join(sorted(_SHAREGPT_ROLES))}")
    return messages


def _tool_calls(text: str) -> list[Any]:
    calls = json.loads(text)
    calls = calls if isinstance(calls, list) else [calls]
    return [{"type": "function", "function": call} for call in calls]


def _from_instruction(row: Row) -> list[Message]:
    messages: list[Message] = []
    if row.get("system"):
        messages.append({"role": "system", "content": _text(row, "system")})
    for asked, answered in row.get("history") or ():
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    question = _text(row, "instruction")
    if extra := row.get("input"):
        question = f"{question}\n\n{extra}"
    return [
        *messages,
        {"role": "user", "content": question},
        {"role": "assistant", "content": _text(row, "response", "output")},
    ]


_READERS = {
    "messages": _from_messages,
    "prompt-completion": _from_prompt_completion,
    "sharegpt": _from_sharegpt,
    "instruction-response": _from_instruction,
}
