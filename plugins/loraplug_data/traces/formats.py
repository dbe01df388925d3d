"""Which format a trace is of, told by what it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

from loraplug import InputError
from loraplug_data.traces.openhands_sdk import is_sdk_event
from loraplug_data.traces.written import XML

Format = Literal["openai", "content-blocks", "swe-agent", "mini-swe-agent", "openhands", "swe-smith-xml"]
FORMATS: tuple[str, ...] = get_args(Format)
BLOCKS = frozenset({"tool_use", "tool_result", "thinking", "redacted_thinking"})
EVENTS = ("history", "events", "trajectory")
_SHOWN = 12


def format_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """The format of a trace, and by what it was told.

    Raises:
        InputError: it is of none that is known, telling what was seen, or could be of two.
    """
    signs = _signs(row)
    if len(signs) == 1:
        return next(iter(signs.items()))
    if signs:
        told = "; ".join(f"{name} ({why})" for name, why in signs.items())
        todo = f'set the format: format = "{next(iter(signs))}"'
        raise InputError(f"is ambiguous: it could be {told}", todo=todo)
    known = ", ".join(f'"{name}"' for name in FORMATS)
    raise InputError(
        f"is a trace of unknown format; it has: {_seen(row)}",
        todo=f"remove it from the data, or set format; known formats are {known}",
    )


def messages_of(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The messages of a trace; none where there is no such list."""
    for key in ("messages", "history"):
        value = row.get(key)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                continue
        if isinstance(value, list) and value and all(isinstance(one, Mapping) and "role" in one for one in value):
            return value
    return []


def events_of(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The events of an OpenHands trace, of which older ones come in pairs; none where there are none."""
    for key in EVENTS:
        value = row.get(key)
        if isinstance(value, list) and value:
            flat = [one for item in value for one in (item if isinstance(item, list) else [item])]
            if all(isinstance(one, Mapping) and is_event(one) for one in flat):
                return flat
    return []


def is_event(one: Mapping[str, Any]) -> bool:
    """Whether it is an event of OpenHands: an action with arguments, an observation with content, or one of its SDK."""
    if is_sdk_event(one):
        return True
    return ("action" in one) != ("observation" in one) and ("source" in one or "args" in one or "extras" in one)


def _signs(row: Mapping[str, Any]) -> dict[str, str]:
    signs: dict[str, str] = {}
    if events_of(row):
        signs["openhands"] = "events with action, observation and source"
    if isinstance(row.get("trajectory"), list) and isinstance(row.get("history"), list) and messages_of(row):
        signs["swe-agent"] = "history and trajectory"
    info = row.get("info")
    mini = isinstance(info, Mapping) and "mini_version" in info
    if messages_of(row) and (mini or str(row.get("trajectory_format", "")).startswith("mini-swe-agent")):
        signs["mini-swe-agent"] = "messages and its version"
    return signs or _of_messages(messages_of(row))


def _of_messages(messages: list[Mapping[str, Any]]) -> dict[str, str]:
    signs: dict[str, str] = {}
    if any(one.get("tool_calls") or one.get("function_call") or one["role"] == "tool" for one in messages):
        signs["openai"] = "messages with tool_calls"
    kinds = {str(part.get("type")) for one in messages if isinstance(one.get("content"), list)
             for part in one["content"] if isinstance(part, Mapping)}  # fmt: skip
    if found := kinds & BLOCKS:
        signs["content-blocks"] = f"blocks of the type {', '.join(sorted(found))}"
    written = (one["content"] for one in messages if one["role"] == "assistant" and isinstance(one.get("content"), str))
    if any("<parameter=" in text and XML.search(text) for text in written) and "openai" not in signs:
        signs["swe-smith-xml"] = "<function=…> in what the assistant writes"
    if not signs and any(str(one.get("content")).startswith("<returncode>") for one in messages):
        signs["mini-swe-agent"] = "<returncode> in what follows a command"  # its first versions left nothing else
    return signs


def _seen(row: Mapping[str, Any]) -> str:
    keys = ", ".join(list(row)[:_SHOWN])
    for key in ("messages", *EVENTS):
        value = row.get(key)
        if isinstance(value, list) and value:
            inner = value[0]
            kind = (
                f"tables with {', '.join(list(inner)[:_SHOWN])}" if isinstance(inner, Mapping) else type(inner).__name__
            )
            return f"keys {keys}; {key} are {len(value)} {kind}"
    return f"keys {keys}" if keys else "no keys"
