"""Token ids to text, as they come: whole characters only, and an end where a text was asked for as one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from attrs import define, field


@define
class Pieces:
    """Text of an answer, holding back what is not a whole character yet.

    A token is decoded behind the few that were said before it, since decoders treat the first of a text apart.

    Attributes:
        shown: ids of control tokens that are text for who reads it, as the marks of a tool call; others are left out.
    """

    PATIENCE = 8
    """Tokens held back at most: a character has four bytes, so what waits longer never becomes one."""

    tokenizer: Any
    shown: Collection[int] = ()
    _said: list[int] = field(factory=list, init=False)
    _held: list[int] = field(factory=list, init=False)
    _hidden: frozenset[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._hidden = frozenset(self.tokenizer.all_special_ids) - set(self.shown)

    def add(self, token: int) -> str:
        """The text that can be said now."""
        if token in self._hidden:
            return ""
        self._held.append(token)
        piece = self.rest()
        if not piece or (piece.endswith("\ufffd") and len(self._held) < self.PATIENCE):
            return ""
        self._said, self._held = self._held, []
        return piece

    def rest(self) -> str:
        """What is still held back when no token follows."""
        return self._decoded(self._said + self._held)[len(self._decoded(self._said)) :]

    def _decoded(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@define
class StopTexts:
    """Passes text on until one of some texts comes, which is not passed on; what may begin one waits."""

    stops: Sequence[str]
    found: bool = False
    _held: str = ""

    def add(self, text: str) -> str:
        """What can be said now."""
        if not self.stops or self.found:
            return "" if self.found else text
        text = self._held + text
        places = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        keep = max(held_back(text, stop) for stop in self.stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What waited when nothing follows."""
        held, self._held = self._held, ""
        return held


def held_back(text: str, mark: str) -> int:
    """Characters at the end of a text with which a mark may begin."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-size:])), 0)
