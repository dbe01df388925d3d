"""Text that is formatted already, as ids: a trained text behind a prompt that is not trained."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from attrs import evolve, frozen

from loraplug import InputError
from loraplug_chat.marks import Added, AnnotatedText, Mark
from loraplug_chat.mask import Encoded
from loraplug_chat.tokens import Tokens


class PlainText:
    """Encodes a trained text behind a prompt that is not trained, with what the tokenizer itself puts around text."""

    def __init__(self, tokenizer: Any, end: bool, control_tokens: bool) -> None:
        self._added = Added.of(tokenizer)
        self._tokens = Tokens.of(tokenizer, self._added)
        self._read_control = control_tokens
        self._front: list[int] = tokenizer("a")["input_ids"][:1]
        if self._front != [tokenizer.bos_token_id]:
            self._front = []
        if end and tokenizer.eos_token_id is None:
            raise InputError(
                "the tokenizer has no end-of-sequence token", where="formatter.end", todo="set end = false"
            )
        self._end = [tokenizer.eos_token_id] if end else []

    def encode(self, before: str, after: str) -> Encoded:
        """Ids of both texts, the second trained."""
        text = before + after
        view = AnnotatedText(text, ())
        for found in self._added.pattern.finditer(text):
            start, stop = found.span()
            number, special = self._added.tokens[found.group()]
            across = start < len(before) < stop
            if self._read_control and not across:
                view.marks.append(Mark(start, stop, number, special))
            elif special:
                view.escaped_special.append((start, stop))
            else:
                view.inside = True
        ids, index, _ = self._tokens.encode(view, [len(before)] if before else [], [])
        front = self._front if ids[:1] != self._front else []
        end = self._end if ids[-1:] != self._end else []
        untrained = len(front) + index.get(len(before), 0) if before else 0
        ids = [*front, *ids, *end]
        trained = [at >= untrained for at in range(len(ids))]
        return Encoded(ids, trained, True, bool(self._end), bool(view.escaped_special), False, [])

    def opening(self, row: Encoded) -> list[int]:
        """The token that this tokenizer puts in front of every text, if it does and the row has it."""
        return self._front if row.ids[:1] == self._front else []


@frozen
class PlainRow:
    """A row's texts: encoded, and cut where they are too long."""

    plain: PlainText
    before: str
    after: str

    def __call__(self, _: Any) -> Encoded:
        """Ids of both texts."""
        return self.plain.encode(self.before, self.after)

    def pieces(self, row: Encoded, limit: int) -> list[Encoded]:
        """The row as rows of at most `limit` tokens and about the same length, each with the token that opens a text.

        Behind those, their ids in order are those of the row.
        """
        front = self.plain.opening(row)
        length, room = len(row.ids) - len(front), limit - len(front)
        count = -(-length // room)
        bounds = [len(front) + length * number // count for number in range(count + 1)]
        return [self._part(row, front, a, b) for a, b in pairwise(bounds)]

    def last(self, row: Encoded, limit: int) -> Encoded:
        """The row's last tokens behind the token that opens a text, `limit` in all."""
        front = self.plain.opening(row)
        return self._part(row, front, len(row.ids) - limit + len(front), len(row.ids))

    def _part(self, row: Encoded, front: list[int], start: int, end: int) -> Encoded:
        first = len(front)
        return evolve(row, ids=[*front, *row.ids[start:end]], trained=[*row.trained[:first], *row.trained[start:end]])
