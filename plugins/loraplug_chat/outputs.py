"""Shortens tool outputs, the first step for conversations that are too long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

Message = dict[str, Any]

MARKER = "[… {:,} characters left out …]"
OUTPUT_ROLES = frozenset({"tool", "function", "ipython", "observation"})
_NEVER = frozenset({"assistant", "system", "developer"})
_STEP = 0.95


def is_cuttable(message: Message) -> bool:
    """Whether a message may lose its middle: outputs of tools do unless they say `cuttable: false`, users' if true."""
    said = message.get("cuttable")
    if message["role"] in _NEVER:
        return False
    return message["role"] in OUTPUT_ROLES if said is None else said is True


def untrained(message: Message) -> dict[str, Any]:
    """The message with its loss switched off."""
    return {**message, "weight": 0.0}


@frozen
class Cut:
    """Messages whose outputs have lost their middles.

    Attributes:
        messages: all messages, those that were cut being untrained.
        outputs: how many were cut.
        characters: how many characters they lost.
    """

    messages: list[Message]
    outputs: int = 0
    characters: int = 0


def cut_outputs(messages: Sequence[Message], most: int) -> Cut:
    """Keep of each output that may be cut about `most` characters, half from its beginning and half from its end."""
    made, outputs, characters = [], 0, 0
    for message in messages:
        content, gone = _cut(message.get("content"), most) if is_cuttable(message) else (None, 0)
        outputs += gone > 0
        characters += gone
        made.append(untrained({**message, "content": content}) if gone else message)
    return Cut(made, outputs, characters)


def longest_output(messages: Sequence[Message]) -> int:
    """Characters of the longest text that may be cut; 0 if there is none."""
    texts = (text for message in messages if is_cuttable(message) for text in _texts(message.get("content")))
    return max(map(len, texts), default=0)


def sizes(longest: int, least: int) -> list[int]:
    """Sizes to try for outputs of which the longest has `longest` characters: from there down to `least`."""
    made: list[int] = []
    size = longest
    while size > least:
        made.append(size)
        size = int(size * _STEP)
    return [*made, least]


def shorten(text: str, most: int) -> tuple[str, int]:
    """A text without its middle, the marker in its place, and how many characters are gone; cut at ends of lines if it
    has some near. A text that would not get shorter stays as it is.
    """
    head, tail = text[: (most + 1) // 2], text[max(len(text) - most // 2, 0) :]
    if 2 * (end := head.rfind("\n") + 1) > len(head):
        head = head[:end]
    if 0 < 2 * (begin := tail.find("\n") + 1) < len(tail):
        tail = tail[begin:]
    gone = len(text) - len(head) - len(tail)
    above = "" if head.endswith("\n") or not head else "\n"
    below = "" if tail.startswith("\n") or not tail else "\n"
    made = f"{head}{above}{MARKER.format(gone)}{below}{tail}"
    return (made, gone) if len(made) < len(text) else (text, 0)


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in content if _is_text(part))


def _cut(content: Any, most: int) -> tuple[Any, int]:
    if isinstance(content, str):
        return shorten(content, most)
    if not isinstance(content, list):
        return content, 0
    made, gone = [], 0
    for part in content:
        if _is_text(part):
            text, less = shorten(part["text"], most)
            part, gone = {**part, "text": text}, gone + less
        made.append(part)
    return made, gone


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)
