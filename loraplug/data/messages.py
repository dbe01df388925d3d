"""One message of a row in the form that all messages have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field

from loraplug.config.errors import InputError
from loraplug.data.content import MEDIA_KEYS, is_empty, kind, no_media, text_of
from loraplug.data.conversation import REASONING_KEYS, ROLES, Message
from loraplug.data.tool_calls import tool_calls
from loraplug.data.weights import MASK_KEYS, UNHEEDED, weight_of

_OTHER_NAMES = {
    "user": ("human", "prompter"),
    "assistant": ("gpt", "chatgpt", "bot", "chatbot", "model", "ai"),
    "tool": ("observation", "ipython", "function", "tool_response", "tool_result", "function_response"),
}
ROLE_NAMES = {role: role for role in ROLES} | {name: role for role, names in _OTHER_NAMES.items() for name in names}
CALL_ROLES = frozenset({"function_call", "tool_call"})
_USUAL = {"role", "content"}
_SAID = ("role", "from"), ("content", "value")
_CONSUMED = {"role", "from", "content", "value", "tool_calls", "function_call"}
_HEEDED = MASK_KEYS | UNHEEDED | MEDIA_KEYS
_OURS = {"cuttable"}


@define
class Seen:
    """What messages of a row turned up: `roles` as written to as read, and keys that are passed on as they are."""

    roles: dict[str, str] = field(factory=dict)
    unread: set[str] = field(factory=set)


def message(value: Any, seen: Seen) -> Message:
    """A message or a sharegpt turn in its one form (see `Conversation`).

    Raises:
        InputError: it has no role, an unknown one, no content, or content that is not text.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"a message is {kind(value)}, not an object with role and content")
    if value.keys() == _USUAL and type(value["content"]) is type(value["role"]) is str and value["role"] in ROLES:
        return {"role": value["role"], "content": value["content"]}
    written = _one_of(value, _SAID[0])
    if not isinstance(written, str):
        raise InputError(f"a message has no role (keys: {_keys(value)})", todo=_renaming(value, "role"))
    role = role_of(written, seen)
    content = _one_of(value, _SAID[1])
    made: Message = {"role": role, "content": None}
    calls: list[Message] = []
    if _plain(written) in CALL_ROLES:
        calls, content = tool_calls(content, seen.unread), None
    else:
        made["content"] = text_of(content, role, seen.unread)
    for key in ("tool_calls", "function_call"):
        if not is_empty(value.get(key)) and (more := tool_calls(value[key], seen.unread)) != calls:
            if calls:
                raise InputError("a message has two different lists of tool calls")
            calls = more
    no_media(value, "a message")
    if calls:
        if role != "assistant":
            raise InputError(f"a message of the role {written} calls tools; only the assistant may")
        made["tool_calls"] = calls
        made["content"] = made["content"] or None  # an empty text beside calls says what null says
    for key, item in value.items():
        if key not in _CONSUMED and key.lower() not in _HEEDED and item is not None:
            made[key] = item
            if key not in _OURS and item not in ("", [], {}):
                seen.unread.add(key)
    if made["content"] is None and not calls:
        if not any(made.get(key) for key in REASONING_KEYS):
            what = f"a message ({written}) has no content" + " and no tool calls" * (role == "assistant")
            raise InputError(what, todo=_renaming(value, "content"))
        made["content"] = ""
    if (weight := weight_of(value)) != 1:
        made["weight"] = weight
    return made


def role_of(written: str, seen: Seen) -> str:
    """The role that a name stands for.

    Raises:
        InputError: it is none of those known.
    """
    name = _plain(written)
    role = "assistant" if name in CALL_ROLES else ROLE_NAMES.get(name)
    if role is None:
        known = ", ".join(sorted({*ROLE_NAMES, *CALL_ROLES}))
        raise InputError(
            f"unknown role {written[:40]!r}", todo=f"give the message one of the roles known in the data: {known}"
        )
    if role != written and name not in CALL_ROLES:
        seen.roles[written] = role
    return role


def _plain(role: str) -> str:
    return role.strip().lower().replace("-", "_").replace(" ", "_")


def _one_of(value: Mapping[str, Any], keys: tuple[str, str]) -> Any:
    """The value under one of two keys, of which a message has one, or both alike."""
    first, second = (value.get(key) for key in keys)
    if first is not None and second is not None and first != second:
        raise InputError(f'a message has both "{keys[0]}" and "{keys[1]}", which differ')
    return second if first is None else first


def _renaming(value: Mapping[str, Any], wanted: str) -> str | None:
    """What to do where a message may have its role or content under another key."""
    others = [key for key, item in value.items() if isinstance(item, str) and key not in _CONSUMED]
    if not others:
        return None
    return f'name the key that holds it in the recipe: [dataset] rename = {{ messages.{others[0]} = "{wanted}" }}'


def _keys(value: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, value)))[:80] or "none"
