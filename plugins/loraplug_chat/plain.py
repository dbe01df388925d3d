"""Text that is formatted already, as ids: a trained text behind a prompt that is not trained."""

from __future__ import annotations

from typing import Any

from loraplug import InputError
from loraplug_chat.marks import Added, Mark, View
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
        view = View(text, ())
        for found in self._added.pattern.finditer(text):
            start, stop = found.span()
            number, special = self._added.tokens[found.group()]
            across = start < len(before) < stop
            if self._read_control and not across:
                view.marks.append(Mark(start, stop, number, special))
            elif special:
                view.lookalikes.append((start, stop))
            else:
                view.inside = True
        ids, index, _ = self._tokens.encode(view, [len(before)] if before else [], [])
        front = self._front if ids[:1] != self._front else []
        end = self._end if ids[-1:] != self._end else []
        untrained = len(front) + index.get(len(before), 0) if before else 0
        ids = [*front, *ids, *end]
        trained = [at >= untrained for at in range(len(ids))]
        return Encoded(ids, trained, True, bool(self._end), bool(view.lookalikes), False, [])
