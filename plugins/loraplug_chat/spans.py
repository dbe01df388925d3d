"""Where in a rendered text each trained turn begins and ends, proved row by row.

A turn begins where the prompt that inference would give ends: the text rendered from the messages before it, with
`add_generation_prompt`, must be the beginning of the whole text. It ends with the control token the template writes
after the turn. Where a template rewrites history and whole texts cannot be compared, what the template itself writes
between two pieces of row text is compared instead; the origin of every character is known (`loraplug_chat.provenance`).
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from attrs import define, evolve

from loraplug import InputError
from loraplug_chat.endings import PROBE, Endings, Turn, unproved
from loraplug_chat.marks import Added, AnnotatedText
from loraplug_chat.provenance import UNKNOWN
from loraplug_chat.template import Template, TemplateInput

_LETTERS = string.ascii_letters + string.digits + string.punctuation


@define
class Locator:
    """Finds turns."""

    template: Template
    added: Added
    endings: Endings

    def turns(self, talk: TemplateInput, full: AnnotatedText, wanted: Sequence[int]) -> list[Turn]:
        """The turns of the messages numbered `wanted`.

        Raises:
            InputError: the place of a turn cannot be proved, with the reason.
        """
        found: list[Turn] = []
        for message in wanted:
            turn = self._turn(talk, full, message)
            if turn.start < (found[-1].end if found else 0) or turn.end < turn.start:
                raise unproved(talk, message, "it overlaps the previous turn")
            if full.foreign_spans(turn.start, turn.end, message):
                raise unproved(talk, message, "the template mixes its text with other messages")
            found.append(turn)
        self._agree(talk, full, found)
        return found

    def _turn(self, talk: TemplateInput, full: AnnotatedText, message: int) -> Turn:
        if full.bodies(message) or self._prompted(talk, full, message):
            start, same = self._start(talk, full, message)
            return self.endings.turn(talk, full, message, start, same)
        return self._silent(talk, full, message)

    def _prompted(self, talk: TemplateInput, full: AnnotatedText, message: int) -> bool:
        upto = message == len(talk.messages) - 1 or full.text.startswith(self.template.plain(talk, message + 1))
        return upto and message > 0 and full.text.startswith(self.template.plain(talk, message, prompt=True))

    def _silent(self, talk: TemplateInput, full: AnnotatedText, message: int) -> Turn:
        """A turn of which the text shows nothing: placed in the text as it would be if the turn said a word."""
        spoken = TemplateInput(talk.id, [dict(m) for m in talk.messages], talk.tools, talk.wanted)
        spoken.messages[message]["content"] = PROBE
        view = AnnotatedText.of(self.template.tracked(spoken), self.added, talk.id)
        places = view.bodies(message)
        if len(places) != 1 or view.text[: places[0][0]] + view.text[places[0][1] :] != full.text:
            raise unproved(talk, message, "the template omits its content, and the turn cannot be located")
        start, same = self._start(spoken, view, message)
        turn = self.endings.turn(spoken, view, message, start, same)
        start, end = (at - len(PROBE) if at >= places[0][1] else at for at in (turn.start, turn.end))
        return evolve(turn, start=start, end=end)

    def _start(self, talk: TemplateInput, full: AnnotatedText, message: int) -> tuple[int, bool]:
        places = full.bodies(message)
        first = places[0][0] if places else None
        try:
            prompt = self.template.plain(talk, message, prompt=True)
        except InputError:
            if message:
                raise
            return self._first_header(talk, full, first)
        if full.text.startswith(prompt) and (first is None or first >= len(prompt)):
            return len(prompt), message > 0
        if not message:
            return self._first_header(talk, full, first)
        if first is None:
            raise unproved(talk, message, "the template omits its content and rewrites the text before it")
        if any(owner == UNKNOWN for _, _, owner in full.spans):
            raise unproved(
                talk, message, "the template rewrites earlier turns, and the turn cannot be located in its text"
            )
        before = AnnotatedText.of(self.template.tracked(talk, message, prompt=True), self.added, talk.id)
        row_end, owner = before.rows_before(len(before.text))
        gap_start, gap_owner = full.rows_before(first)
        if owner != gap_owner:
            raise unproved(talk, message, "the template's text before it differs from the prompt at inference")
        same = self._common(self.added.cut(before.text[row_end:]), self.added.cut(full.text[gap_start:first]))
        if same is None:
            raise unproved(talk, message, "the template's text before it differs from the prompt at inference")
        return gap_start + same, False

    def _first_header(self, talk: TemplateInput, full: AnnotatedText, first: int | None) -> tuple[int, bool]:
        asked = TemplateInput(talk.id, [{"role": "user", "content": PROBE}], None, [True])
        prompt, without = self.template.plain(asked, prompt=True), self.template.plain(asked)
        if first is None or not prompt.startswith(without) or prompt == without:
            raise unproved(talk, 0, "nothing precedes it, and its header cannot be located")
        gap_start = full.rows_before(first)[0]
        header, gap = self.added.cut(prompt[len(without) :]), self.added.cut(full.text[gap_start:first])
        opened = max((i for i, part in enumerate(gap) if part == header[0]), default=len(gap))
        same = self._common(header, gap[opened:])
        if same is None or same < len(header[0]):
            raise unproved(talk, 0, "nothing precedes it, and its header cannot be located")
        return gap_start + sum(map(len, gap[:opened])) + same, False

    def _common(self, prompt: list[str], gap: list[str]) -> int | None:
        """Length of what two openings share, in whole elements; all of `prompt` where it is the beginning of `gap`.

        None where they differ in words from the start of an element: then they are not openings of the same turn.
        """
        if "".join(gap).startswith("".join(prompt)):
            return sum(map(len, prompt))
        length = 0
        for a, b in zip(prompt, gap, strict=False):
            if a == b:
                length += len(a)
                continue
            if any(self.added.is_token(part) or part.isspace() for part in (a, b)):
                return length
            shared = next((a[:at] for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(a, b, key=len))
            shared = shared if shared in (a, b) else shared[: len(shared.rstrip(_LETTERS))]
            return length + len(shared) if shared.strip() else None
        return length

    def _agree(self, talk: TemplateInput, full: AnnotatedText, turns: list[Turn]) -> None:
        """Where the template marks what is generated, every word of a trained turn must be inside such marks."""
        blocks = full.generation()
        if not blocks:
            return
        for turn in turns:
            words = [(a, b) for a, b in full.bodies(turn.message) if turn.start <= a < b <= turn.end]
            if not all(any(opened <= a and b <= closed for opened, closed in blocks) for a, b in words):
                raise unproved(talk, turn.message, "the template's {% generation %} marks exclude it")
