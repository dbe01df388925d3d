"""Shortening a conversation: its forms in the order in which things are cut, and the first of them that fits."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import define, evolve, field, frozen

from loraplug import Conversation, InputError
from loraplug_chat.exchanges import Exchanges, Start
from loraplug_chat.outputs import cut_outputs, longest_output, sizes
from loraplug_chat.overlong import LEAST, NO_ROOM, ROUNDS, USUAL, Fitted, TalkEncoder

if TYPE_CHECKING:
    from loraplug_chat.mask import Encoded


@frozen
class Form:
    """A shorter conversation: outputs cut to `most` characters, newer part from `start` to before `end`."""

    most: int
    start: Start
    end: int


@define
class Shortener:
    """Finds the form of a conversation that loses least and has at most `limit` tokens.

    Forms are measured by their text, O(log n) of them for n forms; the one that is found is proved by encoding it.
    """

    talk: Conversation
    encode: TalkEncoder
    limit: int
    _parts: Exchanges = field(init=False)
    _closed: bool = False
    _refused: InputError | None = None

    def __attrs_post_init__(self) -> None:
        self._parts = Exchanges.of(self.talk.messages, self.encode.answers(self.talk))

    def fitted(self) -> Fitted:
        """The row as one that fits, or left out.

        Raises:
            InputError: no form of it can be encoded.
        """
        forms = self._forms()
        found = self._first(forms)
        if found is None and self._refused is not None:  # perhaps where no question follows another
            found = self._first([form for form in forms if not form.start.later])
        if found is None:
            self._refused = None
            if self._fits(forms[-1], self.limit):
                self._proved(forms[-1])
            if self._refused is not None:
                raise self._refused
            return Fitted([], f"more than {self.limit} tokens, {NO_ROOM}")
        form, made = found
        if form.most == USUAL and made.counts["cut_outputs"]:  # what the last turn to go has left free
            longest = longest_output(self.talk.messages)
            made = (self._first([evolve(form, most=most) for most in sizes(longest, USUAL)]) or found)[1]
        return made

    def _forms(self) -> list[Form]:
        """All forms, in the order of `overlong.TABLE`."""
        longest = longest_output(self.talk.messages)
        whole, end = len(self.talk.messages), self._parts.newest + 1
        first, *later = self._parts.starts
        usual = min(longest, USUAL)
        forms = [Form(most, first, whole) for most in sizes(longest, usual)]
        forms += [Form(usual, first, end)] if end < whole else []
        forms += [Form(usual, start, end) for start in later]
        return forms + [Form(most, forms[-1].start, end) for most in sizes(usual, min(usual, LEAST))[1:]]

    def _first(self, forms: Sequence[Form]) -> tuple[Form, Fitted] | None:
        """The first form that fits. Measures may be wrong by a little: after a proof that says so, less is allowed."""
        room = self.limit
        for _ in range(ROUNDS):
            at = bisect_left(range(len(forms)), True, key=lambda number: self._fits(forms[number], room))
            if at == len(forms):
                break
            row = self._proved(forms[at])
            if row is None:
                forms = forms[at + 1 :]
            elif len(row.ids) <= self.limit:
                return forms[at], self._told(forms[at], row)
            else:
                room -= len(row.ids) - self.limit
        if forms and self._fits(forms[-1], self.limit):
            row = self._proved(forms[-1])
            if row is not None and len(row.ids) <= self.limit:
                return forms[-1], self._told(forms[-1], row)
        return None

    def _fits(self, form: Form, room: int) -> bool:
        try:
            return self.encode.fits(self._made(form), room)
        except InputError as error:
            if form.start.later and not self._closed and self._parts.closing is not None:
                self._closed = True
                return self._fits(form, room)
            self._refused = error
            return False

    def _proved(self, form: Form) -> Encoded | None:
        try:
            return self.encode(self._made(form))
        except InputError as error:
            self._refused = error
            return None

    def _made(self, form: Form) -> Conversation:
        kept = self._parts.kept(form.start, form.end, self._closed)
        return evolve(self.talk, messages=cut_outputs(self._parts.of_kept(kept), form.most).messages)

    def _told(self, form: Form, row: Encoded) -> Fitted:
        kept = self._parts.kept(form.start, form.end, self._closed)
        cut = cut_outputs(self._parts.of_kept(kept), form.most)
        talk = evolve(self.talk, messages=cut.messages)
        counts = Counter(
            cut_outputs=cut.outputs,
            cut_characters=cut.characters,
            removed_turns=len(self.talk.messages) - len(kept),
            untrained_answers=len(self._parts.answers) - len(self.encode.answers(talk)),
        )
        counts["truncated"] = int(any(counts.values()))
        return Fitted([row], counts=+counts, talk=talk)
