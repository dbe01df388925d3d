"""One training example as a conversation, in the one form that all formatters get, whatever the file was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

Row = Mapping[str, Any]
Message = dict[str, Any]

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_NO_ROLES: Mapping[str, str] = {}


@frozen
class Conversation:
    """One training example.

    A message has `role` (one of `ROLES`) and `content`: text, or None beside tool calls. It may have `tool_calls`, each
    `{"id"?, "type": "function", "function": {"name", "arguments"}}` with the arguments as a table; `weight` (float, at
    least 0), only where it is not 1, by which the loss of its tokens is multiplied, 0 meaning not trained; `cuttable`;
    and whatever other keys the row wrote.

    Attributes:
        id: names the row in messages to the user.
        messages: at least one.
        tools: tool schemas for the chat template, each `{"type": "function", "function": {...}}`, if any.
        roles: names of roles as the row wrote them, where they differ, to the roles they were read as.
        unread: keys of messages that the row wrote and nothing has read so far, as `name` or `tool_calls[].index`.
    """

    id: str
    messages: list[Message]
    tools: list[Any] | None = None
    roles: Mapping[str, str] = field(default=_NO_ROLES, eq=False)
    unread: frozenset[str] = field(default=frozenset(), eq=False)
