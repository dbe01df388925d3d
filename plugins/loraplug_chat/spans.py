"""Where in a rendered text each trained turn begins and ends, proved row by row.

A turn begins where the prompt that inference would give ends: the text rendered from the messages before it, with
`add_generation_prompt`, must be the beginning of the whole text. It ends with the control token the template writes
after the turn. Where a template rewrites history and whole texts cannot be compared, what the template itself writes
between two pieces of row text is compared instead; the origin of every character is known (`loraplug_chat.tracked`).
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field, frozen

from loraplug import InputError
from loraplug_chat.marks import Added, View
from loraplug_chat.template import Talk, Template
from loraplug_chat.tracked import UNKNOWN

PROBE = "probe"


@frozen
class Turn:
    """A trained stretch text[start:end].

    Attributes:
        message: number of the message it comes from.
        start: first character the model has to say.
        end: one behind its end-of-turn token (or behind its text, where the template writes no such token).
        same_prompt: text[:start] is what inference puts in front of it.
        stops: whether an end-of-turn token is inside, or comes as `handover`.
        handover: a token to put behind the whole text: with it the model hands over where templates write none.
    """

    message: int
    start: int
    end: int
    same_prompt: bool
    stops: bool = True
    handover: int | None = None


@define
class Locator:
    """Finds turns. Remembers closings it has proved, so that most rows need no further rendering."""

    template: Template
    added: Added
    _closings: set[str] = field(factory=set)

    def turns(self, talk: Talk, full: View, wanted: Sequence[int]) -> list[Turn]:
        """The turns of the messages numbered `wanted`.

        Raises:
            InputError: the place of a turn cannot be proved, with the reason.
        """
        found: list[Turn] = []
        for message in wanted:
            start, same = self._start(talk, full, message)
            turn = self._ended(talk, full, message, start, same)
            if turn.start < (found[-1].end if found else 0) or turn.end < turn.start:
                raise _refusal(talk, message, "it overlaps the turn before it")
            if full.strangers(turn.start, turn.end, message):
                raise _refusal(talk, message, "the template mixes it with other messages")
            found.append(turn)
        self._agree(talk, full, found)
        return found

    def _start(self, talk: Talk, full: View, message: int) -> tuple[int, bool]:
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
        if first is None:
            raise _refusal(talk, message, "the template leaves out its content and rewrites what is before it")
        if any(owner == UNKNOWN for _, _, owner in full.spans):
            raise _refusal(talk, message, "the template rewrites history and its text cannot be followed")
        before = View.of(self.template.tracked(talk, message, prompt=True), self.added, talk.id)
        row_end, owner = before.rows_before(len(before.text))
        gap_start, gap_owner = full.rows_before(first)
        if owner != gap_owner:
            raise _refusal(talk, message, "what the template puts before it differs from the prompt at inference")
        same = _common(before.elements(row_end, len(before.text)), full.elements(gap_start, first))
        return gap_start + same, False

    def _first_header(self, talk: Talk, full: View, first: int | None) -> tuple[int, bool]:
        asked = Talk(talk.id, [{"role": "user", "content": PROBE}], None, [True])
        prompt, without = self.template.plain(asked, prompt=True), self.template.plain(asked)
        header = prompt[len(without) :] if prompt.startswith(without) else ""
        if first is None or not header or not full.text[:first].endswith(header):
            raise _refusal(talk, 0, "nothing comes before it, and its header cannot be told")
        return first, False

    def _ended(self, talk: Talk, full: View, message: int, start: int, same: bool) -> Turn:
        last_message = message == len(talk.messages) - 1
        if last_message:
            region = len(full.text)
        else:
            places = [span for span in full.bodies(message) if span[0] >= start]
            if places:
                behind = full.text[places[-1][1] : full.rows_after(places[-1][1])]
                if any(behind.startswith(known) for known in self._closings):
                    known = max((c for c in self._closings if behind.startswith(c)), key=len)
                    return Turn(message, start, places[-1][1] + len(known), same)
            upto = self.template.plain(talk, message + 1)
            if not (full.text.startswith(upto) and len(upto) >= start):
                end, stopped = self._rewritten_end(talk, full, message, start)
                return Turn(message, start, end, same, stopped)
            region = len(upto)
        places = [span for span in full.bodies(message) if start <= span[0] and span[1] <= region]
        last = places[-1][1] if places else start
        stops = [mark for mark in full.marks if last <= mark.start and mark.end <= region and mark.special]
        if stops:
            if places and not last_message:
                self._closings.add(full.text[last : stops[-1].end])
            return Turn(message, start, stops[-1].end, same)
        return self._unstopped(talk, full, message, start, last, region, same)

    def _rewritten_end(self, talk: Talk, full: View, message: int, start: int) -> tuple[int, bool]:
        alone = View.of(self.template.tracked(talk, message + 1), self.added, talk.id)
        said = alone.bodies(message)
        if not said or any(owner == UNKNOWN for _, _, owner in (*full.spans, *alone.spans)):
            raise _refusal(talk, message, "the template rewrites history and its text cannot be followed")
        words = alone.text[said[-1][0] : said[-1][1]].strip()
        tail = alone.elements(said[-1][1], len(alone.text))
        for a, b in reversed([span for span in full.bodies(message) if span[0] >= start]):
            if full.text[a:b].strip() != words:
                continue
            gap = full.elements(b, full.rows_after(b))
            ends = self._matching_stop(tail, gap)
            if ends is not None:
                return b + ends, True
            if not any(map(self._special, tail)) and gap[: len(tail)] == tail:
                opened = len(tail) < len(gap) and self._special(gap[len(tail)])
                closing = "".join(gap[: len(tail) + opened])
                return b + len(closing.rstrip()), opened
        raise _refusal(talk, message, "the template rewrites history and its end cannot be told")

    def _matching_stop(self, tail: list[str], gap: list[str]) -> int | None:
        """Length of the part of `gap` that closes the turn as `tail` does, up to the token that stops."""
        special = [i for i, part in enumerate(tail) if self._special(part)]
        if not special:
            return None
        core = tail[: special[-1] + 1]
        same = next((i for i, (a, b) in enumerate(zip(core, gap, strict=False)) if a != b), min(len(core), len(gap)))
        if shared := [i for i in range(same) if self._special(core[i])]:
            return sum(map(len, gap[: shared[-1] + 1]))
        if same == len(core) - 1 and same < len(gap) and self._special(gap[same]):
            return sum(map(len, gap[: same + 1]))
        return None

    def _unstopped(self, talk: Talk, full: View, message: int, start: int, last: int, region: int, same: bool) -> Turn:
        """A turn after which the template writes no special token: the model stops by opening the next turn."""
        if region == len(full.text):
            follower = "tool" if talk.messages[message].get("tool_calls") else "user"
            try:
                longer = self.template.plain(talk, more=[{"role": follower, "content": PROBE}])
            except InputError:
                longer = ""
            opening = self.added.pattern.match(longer, len(full.text)) if longer.startswith(full.text) else None
            if opening and self._special(opening.group()):
                return Turn(message, start, region, same, handover=self.added.tokens[opening.group()][0])
        else:
            for mark in full.marks:
                if mark.start == region and mark.special:
                    return Turn(message, start, mark.end, same)
        closing = full.text[last:region]
        stops = any(mark.end == last + len(closing.rstrip()) > last for mark in full.marks)
        return Turn(message, start, last + len(closing.rstrip()), same, stops=stops)

    def _special(self, part: str) -> bool:
        return self.added.tokens.get(part, (0, False))[1]

    def _agree(self, talk: Talk, full: View, turns: list[Turn]) -> None:
        """Where the template marks what is generated, every word of a trained turn must be inside such marks."""
        blocks = full.generation()
        if not blocks:
            return
        for turn in turns:
            words = [(a, b) for a, b in full.bodies(turn.message) if turn.start <= a < b <= turn.end]
            if not all(any(opened <= a and b <= closed for opened, closed in blocks) for a, b in words):
                raise _refusal(talk, turn.message, "the template's {% generation %} marks exclude it")


def _common(prompt: list[str], gap: list[str]) -> int:
    """Length of the whole elements that two openings share; all of `prompt` where it is the beginning of `gap`."""
    if "".join(gap).startswith("".join(prompt)):
        return sum(map(len, prompt))
    length = 0
    for a, b in zip(prompt, gap, strict=False):
        if a != b:
            break
        length += len(a)
    return length


def _refusal(talk: Talk, message: int, reason: str) -> InputError:
    return InputError(f"cannot prove which tokens are turn {message}: {reason}", where=talk.id)
