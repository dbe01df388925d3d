"""A trace in its one form: turns with calls of tools and their results, whatever agent wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field

from loraplug import InputError

Message = dict[str, Any]
_FAILED = (
    re.compile(r"<returncode>(-?\d+)</returncode>"),
    re.compile(r"\[(?:The command completed|Command finished) with exit code (-?\d+)\.?\]"),
)
ERRORS = ("Traceback (most recent call last)", "bash: ", "/bin/bash: ", "sh: ", "/bin/sh: ", "ERROR:", "Error:")
"""How outputs begin that have no exit code and tell of an error."""
_HEAD = re.compile(r"(?:OBSERVATION:|EXECUTION RESULT of \[\w+\]:)?\s*")


@define
class Turn:
    """One message.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        content: its text; of an assistant's, without its calls.
        calls: of tools, each `{"id", "type": "function", "function": {"name", "arguments"}}`.
        answers: the id of the call that a tool's result answers; "" where it is not told.
        thinking: what the model thought, kept apart from what it said.
        text: the whole message, where the agent writes its calls as text.
        failed: of a result, whether the command failed; None where nothing tells.
        malformed: of an assistant's, whether what it wrote was no call, and the agent was told so.
        shown: an example that was shown to the model, not its own work.
    """

    role: str
    content: str = ""
    calls: list[Message] = field(factory=list)
    answers: str = ""
    thinking: str = ""
    text: str | None = None
    failed: bool | None = None
    malformed: bool = False
    shown: bool = False
    weight: float | None = None
    rule: str = ""


@define
class Trace:
    """One run of an agent: its turns, the tools that it was told of, and columns that say more of it."""

    turns: list[Turn]
    tools: list[Any] = field(factory=list)
    facts: dict[str, Any] = field(factory=dict)
    skipped: dict[str, int] = field(factory=dict)


def call(name: str, arguments: Any, id: str = "") -> Message:  # noqa: A002 - the field's own word
    """A call of a tool; arguments that are JSON text are read."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            raise InputError(f"the arguments of a call of {name} are not JSON: {arguments[:60]!r}") from None
    if not isinstance(arguments, Mapping):
        raise InputError(f"the arguments of a call of {name} are not an object")
    return {"id": id, "type": "function", "function": {"name": name, "arguments": dict(arguments)}}


def text_of(content: Any) -> str:
    """The text of a message: a text, or parts of which all are text.

    Raises:
        InputError: it holds something else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise InputError(f"the content of a message is {type(content).__name__}, not text")
    parts = []
    for part in content:
        if isinstance(part, str):
            parts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str) and part.get("type") in (None, "text"):
            parts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise InputError(f"a message holds a part of the type {kind!s:.40}, which is no text")
    return "".join(parts)


def has_failed(output: str) -> bool | None:
    """Whether a command failed, by what it printed: its exit code, or how an error begins; None where nothing tells."""
    for pattern in _FAILED:
        if match := pattern.search(output):
            return int(match[1]) != 0
    return True if _HEAD.sub("", output, count=1).startswith(ERRORS) else None


def pair(turns: list[Turn]) -> None:
    """Give every call an id, and every result that of the call it answers: in order, where they do not say."""
    open_: list[str] = []
    number = 0
    for turn in turns:
        for one in turn.calls:
            number += 1
            one["id"] = one["id"] or f"call{number:05d}"
        if turn.calls:
            open_ = [one["id"] for one in turn.calls]
        elif turn.role == "tool":
            turn.answers = turn.answers or (open_[0] if open_ else "")
            if turn.answers in open_:
                open_.remove(turn.answers)


def schemas(traces: Iterable[Trace]) -> list[Message]:
    """The tools that are called, described by their calls: names, arguments with their types, those always given."""
    found: dict[str, dict[str, set[str]]] = {}
    always: dict[str, set[str]] = {}
    for trace in traces:
        for turn in trace.turns:
            for one in turn.calls:
                name, arguments = one["function"]["name"], one["function"]["arguments"]
                known = found.setdefault(name, {})
                for key, value in arguments.items():
                    known.setdefault(key, set()).add(_type(value))
                always[name] = always.get(name, set(arguments)) & set(arguments)
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "parameters": {
                    "type": "object",
                    "properties": {key: {"type": _one(kinds)} for key, kinds in sorted(known.items())},
                    "required": sorted(always[name]),
                },
            },
        }
        for name, known in sorted(found.items())
    ]


def _type(value: Any) -> str:
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _one(kinds: set[str]) -> str | list[str]:
    return next(iter(kinds)) if len(kinds) == 1 else sorted(kinds)
