"""Reasoning in an answer: under a key of its own, or between `<think>` and `</think>` in the content."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OPEN, CLOSE = "<think>", "</think>"
KEYS = ("reasoning_content", "reasoning", "thinking")
_NOTHING = re.compile(rf"\s*(?:{OPEN})?\s*{CLOSE}\s*")


def block(content: str) -> tuple[int, int] | None:
    """Where reasoning stands in a content, with its marks and the white space behind it; `<think>` may be missing."""
    close = content.find(CLOSE)
    if close < 0:
        return None
    begin, end = max(content.find(OPEN, 0, close), 0), close + len(CLOSE)
    return begin, end + len(content[end:]) - len(content[end:].lstrip())


def parted(content: str) -> tuple[str, str] | None:
    """Reasoning and answer, where the content begins with its one block of reasoning."""
    before, _, after = content.partition(CLOSE)
    lead, opened, inside = before.partition(OPEN)
    if content.count(CLOSE) != 1 or OPEN in inside + after or (opened and lead.strip()):
        return None
    return (inside if opened else before).strip("\n"), after.lstrip("\n")


def of(message: Mapping[str, Any]) -> bool:
    """Whether a message brings reasoning."""
    if message.get("role") != "assistant":
        return False
    if any(isinstance(said := message.get(key), str) and said.strip() for key in KEYS):
        return True
    content = message.get("content")
    if not isinstance(content, str) or (found := block(content)) is None:
        return False
    return says(content[slice(*found)])


def says(thought: str) -> bool:
    """Whether reasoning holds a word, its marks aside."""
    return bool(thought.replace(OPEN, "").replace(CLOSE, "").strip())


def empty_block(text: str, at: int) -> int:
    """The end of a block of no reasoning that begins at a place in a text; the place itself if there is none."""
    found = _NOTHING.match(text, at)
    return found.end() if found else at
