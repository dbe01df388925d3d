"""The row shapes a dataset source may yield, and how each becomes a conversation.

    messages               messages = [{role, content, tool_calls…}], optional tools (or functions) and system
    prompt / completion    as text or as lists of messages; the completion is trained
    sharegpt               conversations = [{from, value}] or [{role, content}], optional tools and system
    instruction / response instruction, optional input, response or output, optional system and history
    text                   text, trained on whole; no conversation

and for trainers that learn from judged answers (`loraplug.data.preferences`):

    preference             chosen and rejected, as text or as lists of messages, and prompt unless both begin with it
    labelled               prompt, completion and label, which says whether the completion is wanted
    rollout                prompt_ids and completion_ids as they were drawn, old_log_probs, advantage and group

The shape is recognised once per data set, by its columns. What a message may hold is told in `Conversation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from loraplug.config.errors import InputError
from loraplug.data.content import MEDIA_KEYS, kind, no_media
from loraplug.data.conversation import Conversation, Message, Row
from loraplug.data.labels import advice, label_kind
from loraplug.data.literals import parsed
from loraplug.data.messages import Seen, message
from loraplug.data.tool_calls import name_results, tool_schemas
from loraplug.data.weights import MASK_KEYS, UNHEEDED, row_mask

_ACCEPTED = "messages; prompt + completion; conversations (sharegpt); instruction + response (or output); text"
_ID_COLUMNS = ("instance_id", "task_id", "id")
_TOOLS = frozenset({"tools", "functions", "system"})
_COLUMNS = {
    "messages": _TOOLS | {"messages"},
    "prompt-completion": _TOOLS | {"prompt", "completion"},
    "sharegpt": _TOOLS | {"conversations"},
    "instruction-response": _TOOLS | {"instruction", "input", "response", "output", "history"},
    "text": frozenset({"text"}),
    "preference": _TOOLS | {"prompt", "chosen", "rejected"},
    "labelled": _TOOLS | {"prompt", "completion", "label"},
    "rollout": frozenset({"prompt_ids", "completion_ids", "old_log_probs", "advantage", "group", "reward"}),
}
_JUDGED = {
    "pairs": ("preference", "preference rows", ("chosen", "rejected"), "and prompt, unless both begin with it"),
    "labelled": ("labelled", "labelled rows", ("prompt", "completion", "label"), "which is true or false"),
    "rollouts": (
        "rollout",
        "rollouts",
        ("prompt_ids", "completion_ids", "old_log_probs", "advantage", "group"),
        "as they were drawn from the model",
    ),
}
_LIKELY = {
    "instruction": ("question", "query", "problem", "prompt", "input", "user"),
    "response": ("answer", "completion", "solution", "reply", "assistant", "target"),
    "messages": ("conversation", "chat", "dialog", "dialogue", "dialogs", "chats", "turns", "message", "trajectory"),
    "text": ("content", "body", "document", "code"),
}
_NOT_ON_A_ROW = MASK_KEYS | UNHEEDED | MEDIA_KEYS


def shape_of(columns: Iterable[str], schema: str = "tokens") -> str:
    """Name the shape of rows with these columns.

    Args:
        columns: all that the rows have.
        schema: what they are to be encoded as: `tokens`, `pairs`, `labelled` or `rollouts`.

    Raises:
        InputError: none of the shapes that can be encoded so; tells what was seen.
    """
    have = set(columns)
    if schema in _JUDGED:
        return _judged(have, schema)
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
    if ranked := sorted(name for name in have if label_kind(name) == "ranked"):
        what = f"these are preference rows ({', '.join(ranked)}), with a chosen and a rejected answer"
        raise InputError(what, todo=advice(ranked[0], "ranked", have))
    seen = ", ".join(sorted(have)) or "no columns"
    todo = f"accepted: {_ACCEPTED}; {_renaming(have)}"
    raise InputError(f"rows of unknown shape; columns seen: {seen}", todo=todo)


def _judged(have: set[str], schema: str) -> str:
    """The shape of rows that judge answers.

    Raises:
        InputError: the columns are not those of such rows.
    """
    shape, what, needed, more = _JUDGED[schema]
    lacking = [name for name in needed if name not in have]
    if not lacking:
        return shape
    others = (f'; rows of {", ".join(keys)} are for another trainer' for _, _, keys, _ in _JUDGED.values()
              if keys != needed and have >= {*keys})  # fmt: skip
    todo = f"each row needs {', '.join(needed)}, {more}{''.join(others)}; other names: [dataset] rename = {{ … }}"
    seen = ", ".join(sorted(have)) or "no columns"
    raise InputError(f"these are no {what}: {' and '.join(lacking)} missing; columns seen: {seen}", todo=todo)


def _renaming(have: set[str]) -> str:
    """What the option `rename` would have to say for columns that look like those of a shape."""
    found = {new: next((old for old in olds if old in have), None) for new, olds in _LIKELY.items()}
    for wanted in (["instruction", "response"], ["messages"], ["text"]):
        pairs = [f'{found.get(new)} = "{new}"' for new in wanted if new not in have]
        if all(new in have or found[new] for new in wanted):
            return f"perhaps [dataset] rename = {{ {', '.join(pairs)} }}"
    return 'rename the columns, for example [dataset] rename = { question = "instruction" }'


def row_id(row: Row, index: int) -> str:
    """What to call a row: its instance_id, task_id or id, else `row 12` (counted from 0)."""
    for key in _ID_COLUMNS:
        if (value := row.get(key)) is not None and value != "":
            return str(value)
    return f"row {index}"


def unread_columns(columns: Iterable[str], shape: str) -> list[str]:
    """Columns that make no part of the conversation, nor name or group a row."""
    read = _COLUMNS[shape] | {*_ID_COLUMNS, "group"}
    return sorted(name for name in columns if name not in read and name.lower() not in _NOT_ON_A_ROW)


def check_row(row: Row) -> None:
    """Refuse a row with images, audio or video, or with a mask that only messages can have.

    Raises:
        InputError: says which key, and what to do.
    """
    for key in _suspects(tuple(row)):
        if key.lower() in MEDIA_KEYS:
            no_media({key: row[key]}, "the row")
        else:
            row_mask(row, key)


@lru_cache(maxsize=64)
def _suspects(columns: tuple[str, ...]) -> list[str]:
    return [name for name in columns if name.lower() in _NOT_ON_A_ROW]


def conversation(row: Row, shape: str, index: int) -> Conversation:
    """The row as a conversation, in the one form that is told there.

    Raises:
        InputError: a value is of the wrong type, empty or missing, or cannot be trained; names the row.
    """
    name = row_id(row, index)
    seen = Seen()
    with told_of(name, shape):
        check_row(row)
        messages = _READERS[shape](row, seen)
        if not messages:
            raise InputError("has no messages")
        if any(message["role"] == "tool" for message in messages):
            name_results(messages)
        tools = tools_of(row)
    return Conversation(name, messages, tools, seen.roles, frozenset(seen.unread))


@contextmanager
def told_of(name: str, shape: str) -> Iterator[None]:
    """InputErrors that are raised inside say which row it was, and what to do."""
    try:
        yield
    except InputError as error:
        todo = error.todo or f"correct the row in the data; expected shape: {shape}"
        raise InputError(error.what, where=name, todo=todo) from None
    except RecursionError:
        raise InputError("is nested too deeply", where=name, todo="correct the row in the data") from None


def tools_of(row: Row) -> list[Any] | None:
    """The schemas of tools that a row has."""
    tools, functions = (tool_schemas(row.get(key)) for key in ("tools", "functions"))
    if tools and functions and tools != functions:
        raise InputError("the row has both tools and functions, which differ")
    return tools or functions


def _text(row: Row, *keys: str) -> str:
    """The one text under these keys."""
    found = [(key, row[key]) for key in keys if row.get(key) is not None]
    if not found:
        raise InputError(f"{keys[0]} is missing")
    for key, value in found:
        if not isinstance(value, str):
            raise InputError(f"{key} is {kind(value)}, not text")
    texts = {value for _, value in found}
    if len(texts - {""}) > 1:
        raise InputError(f"the row has both {' and '.join(key for key, _ in found)}, which differ")
    return str(max(texts))


def messages_of(value: Any, key: str, seen: Seen) -> list[Message]:
    """The messages in a column: a list of them, the table older data sets make of it, or JSON text."""
    if isinstance(value, str):
        value = parsed(value, key)
    if value is None:
        raise InputError(f"{key} is missing")
    if isinstance(value, Mapping):
        value = _transposed(value)
    if not isinstance(value, list):
        raise InputError(f"{key} is {kind(value)}, not a list of messages")
    return [message(each, seen) for each in value]


def _transposed(table: Mapping[str, Any]) -> Any:
    """The list of messages that older data sets store as a table of lists; anything else as it is."""
    columns = list(table.values())
    if not columns or not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return table
    return [
        {key: item for key, item in zip(table, each, strict=True) if item is not None}
        for each in zip(*columns, strict=True)
    ]


def system_of(row: Row) -> list[Message]:
    """The system turn that a column of its own holds, if the row has one."""
    return [{"role": "system", "content": _text(row, "system")}] if row.get("system") else []


def _chat(key: str) -> Callable[[Row, Seen], list[Message]]:
    def read(row: Row, seen: Seen) -> list[Message]:
        before, messages = system_of(row), messages_of(row.get(key), key, seen)
        return messages if before == messages[:1] else [*before, *messages]

    return read


def side_of(row: Row, key: str, role: str, seen: Seen) -> list[Message]:
    """The messages in a column that may hold the text of one message of this role instead."""
    value = row.get(key)
    return [{"role": role, "content": value}] if isinstance(value, str) else messages_of(value, key, seen)


def untrained(messages: Iterable[Message]) -> list[Message]:
    """The messages with their loss switched off."""
    return [{**each, "weight": 0.0} for each in messages]


def _from_prompt_completion(row: Row, seen: Seen) -> list[Message]:
    before = [*system_of(row), *side_of(row, "prompt", "user", seen)]
    return [*untrained(before), *side_of(row, "completion", "assistant", seen)]


def _from_instruction(row: Row, seen: Seen) -> list[Message]:  # noqa: ARG001
    messages = system_of(row)
    for asked, answered in _history(row.get("history")):
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    question = _text(row, "instruction")
    if row.get("input") is not None and (extra := _text(row, "input")):
        question = f"{question}\n\n{extra}"
    return [
        *messages,
        {"role": "user", "content": question},
        {"role": "assistant", "content": _text(row, "response", "output")},
    ]


def _history(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, str):
        value = parsed(value, "history") if value.strip() else None
    if value is None:
        return []
    pairs = value if isinstance(value, list) else [value]
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise InputError("history is not a list of pairs of question and answer, both text")
    return [(asked, answered) for asked, answered in pairs]


_READERS: Mapping[str, Callable[[Row, Seen], list[Message]]] = {
    "messages": _chat("messages"),
    "prompt-completion": _from_prompt_completion,
    "sharegpt": _chat("conversations"),
    "instruction-response": _from_instruction,
}
