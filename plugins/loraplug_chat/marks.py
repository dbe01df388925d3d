"""Distinguishes control tokens in a rendered text from text that only looks like them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from attrs import define, field, frozen

from loraplug import CONTROL_TOKEN, InputError
from loraplug_chat.provenance import CLOSE, OPEN, TEMPLATE, ProvenanceStr, Thought
from loraplug_chat.template import body, merged

ROLES = frozenset({"system", "user", "assistant", "tool", "developer", "function", "ipython", "model", "observation"})


class Mark(NamedTuple):
    """A control token the template wrote, at text[start:end]."""

    start: int
    end: int
    id: int
    special: bool


@frozen
class Added:
    """The added tokens of a tokenizer.

    Attributes:
        tokens: text to (id, special).
        control: those that text in a row must never become: special tokens, and what a template frames turns with.
        pattern: finds any of them, the longest where several begin.
    """

    tokens: dict[str, tuple[int, bool]]
    control: frozenset[str]
    pattern: re.Pattern[str]

    @classmethod
    def of(cls, tokenizer: Any) -> Added:
        """Read the added tokens of a fast tokenizer; its special tokens are the control tokens."""
        special = set(tokenizer.all_special_tokens)
        tokens = {
            token.content: (number, token.special or token.content in special)
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.content
        }
        control = frozenset(text for text, (_, special_) in tokens.items() if special_)
        return cls(tokens, control, re.compile(_any_of(tokens) if tokens else r"(?!)"))

    def cut(self, text: str) -> list[str]:
        """Text that a template wrote, cut into control tokens, what is written like one, and what lies between."""
        parts, at = [], 0
        for found in self.pattern.finditer(text):
            parts += [*_apart(CONTROL_TOKEN, text[at : found.start()]), found.group()]
            at = found.end()
        return [*parts, *_apart(CONTROL_TOKEN, text[at:])]

    def is_control(self, part: str) -> bool:
        """Whether this is a special token, or written like one where the tokenizer has no such token."""
        found = self.tokens.get(part)
        return bool(CONTROL_TOKEN.fullmatch(part)) if found is None else found[1]

    def is_token(self, part: str) -> bool:
        """Whether this is an added token, or written like a control token."""
        return part in self.tokens or self.is_control(part)

    def without(self, opened: Iterable[str]) -> Added:
        """The same, where rows may write these tokens."""
        return Added(self.tokens, self.control - {*opened}, self.pattern)

    def framed_by(self, texts: Iterable[str]) -> Added:
        """The same, with every token that occurs in `texts`, written by a template around plain turns, as control."""
        more = {found.group() for text in texts for found in self.pattern.finditer(text) if not found.group().isspace()}
        return Added(self.tokens, self.control | more, self.pattern)


@define
class AnnotatedText:
    """A tracked text with its owners and control tokens.

    Attributes:
        text: the rendered text.
        spans: (start, end, owner) in order; see `template.merged`.
        marks: the control tokens the template wrote.
        escaped_special: (start, end) of control-token text that rows brought; to be plain text.
        inside: whether rows brought text of other added tokens, which stay the words they are.
    """

    text: str
    spans: Sequence[tuple[int, int, int]]
    marks: list[Mark] = field(factory=list)
    escaped_special: list[tuple[int, int]] = field(factory=list)
    inside: bool = False
    _bodies: list[tuple[int, int, int]] = field(factory=list)
    _places: dict[int, list[tuple[int, int]]] | None = None

    @classmethod
    def of(cls, tracked: ProvenanceStr, added: Added, where: str) -> AnnotatedText:
        """Sort every token text in `tracked` by who wrote it.

        Raises:
            InputError: the template builds a control token out of a role it does not know.
        """
        view = cls("".join((tracked,)), merged(tracked.runs))
        bodies, odd_roles = view._bodies, []
        for span in view.spans:
            start, end, owner = span
            if owner == TEMPLATE or start == end:
                continue
            if owner < 0 or owner % 2 == 0:
                bodies.append(span)
            elif view.text[start:end].lower() not in ROLES:
                odd_roles.append(span)
        starts = [span[0] for span in bodies]
        for found in added.pattern.finditer(view.text):
            start, end = found.span()
            at = bisect_right(starts, end - 1) - 1
            if at >= 0 and bodies[at][1] > start:
                if found.group() in added.control:
                    view.escaped_special.append((start, end))
                else:
                    view.inside = True
                continue
            number, special = added.tokens[found.group()]
            for a, b, _ in odd_roles:
                if a < end and b > start:
                    raise InputError(f"the role {view.text[a:b][:40]!r} would form a control token", where=where)
            view.marks.append(Mark(start, end, number, special))
        return view

    def bodies(self, message: int) -> list[tuple[int, int]]:
        """Where text of a message stands; empty stretches only if there are no others."""
        if self._places is None:
            self._places = {}
            for a, b, owner in self.spans:
                self._places.setdefault(owner, []).append((a, b))
        mine = self._places.get(body(message), [])
        return [span for span in mine if span[1] > span[0]] or mine

    def thoughts(self, message: int) -> list[tuple[int, int]]:
        """Where reasoning of a message stands."""
        return [(a, b) for a, b, owner in self.spans if isinstance(owner, Thought) and owner == body(message) and a < b]

    def rows_before(self, at: int) -> tuple[int, int]:
        """End and owner of the last row text that ends at or before `at`; (0, TEMPLATE) if none."""
        last = (0, TEMPLATE)
        for _, end, owner in self._bodies:
            if end > at:
                break
            last = (end, owner)
        return last

    def rows_after(self, at: int) -> int:
        """Where the next row text begins at or after `at`; the end if there is none."""
        return next((start for start, _, _ in self._bodies if start >= at), len(self.text))

    def foreign_spans(self, start: int, end: int, message: int) -> bool:
        """Whether text of other owners stands in [start, end)."""
        return any(a < end and b > start and owner != body(message) for a, b, owner in self._bodies)

    def generation(self) -> list[tuple[int, int]]:
        """What stands between {% generation %} and {% endgeneration %}."""
        opened = [a for a, _, owner in self.spans if owner == OPEN]
        return list(zip(opened, (a for a, _, owner in self.spans if owner == CLOSE), strict=True))


def _apart(pattern: re.Pattern[str], text: str) -> list[str]:
    """Text cut before and behind every match."""
    parts, at = [], 0
    for found in pattern.finditer(text):
        parts += [text[at : found.start()], found.group()]
        at = found.end()
    return [part for part in [*parts, text[at:]] if part]


def _any_of(texts: Iterable[str]) -> str:
    """A pattern for any of `texts`, longest first at every place, built as a tree so that it stays fast."""
    tree: dict[str, Any] = {}
    for text in texts:
        node = tree
        for letter in text:
            node = node.setdefault(letter, {})
        node[""] = {}

    def pattern(node: dict[str, Any]) -> str:
        branches = [re.escape(letter) + pattern(child) for letter, child in node.items() if letter]
        if not branches:
            return ""
        either = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
        return f"(?:{either})?" if "" in node else either

    return pattern(tree)
