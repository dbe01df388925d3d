"""Where in a rendered text each trained turn begins and ends, proved row by row.

A turn begins where the prompt that inference would give ends: the text rendered from the messages before it, with
`add_generation_prompt`, must be the beginning of the whole text. It ends with the control token the template writes
after the turn. Where a template rewrites history and whole texts cannot be compared, what the template itself writes
between two pieces of row text is compared instead; the origin of every character is known (`loraplug_chat.tracked`).
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from attrs import define, evolve, field, frozen

from loraplug import InputError
from loraplug_chat.marks import Added, View
from loraplug_chat.template import Talk, Template
from loraplug_chat.tracked import UNKNOWN

PROBE = "probe"
_LETTERS = string.ascii_letters + string.digits + string.punctuation


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
    _openings: dict[str, int | None] = field(factory=dict)

    def turns(self, talk: Talk, full: View, wanted: Sequence[int]) -> list[Turn]:
        """The turns of the messages numbered `wanted`.

        Raises:
            InputError: the place of a turn cannot be proved, with the reason.
        """
        found: list[Turn] = []
        for message in wanted:
            turn = self._turn(talk, full, message)
            if turn.start < (found[-1].end if found else 0) or turn.end < turn.start:
                raise _refusal(talk, message, "it overlaps the turn before it")
            if full.strangers(turn.start, turn.end, message):
                raise _refusal(talk, message, "the template mixes it with other messages")
            found.append(turn)
        self._agree(talk, full, found)
        return found

    def _turn(self, talk: Talk, full: View, message: int) -> Turn:
        if full.bodies(message) or self._prompted(talk, full, message):
            start, same = self._start(talk, full, message)
            return self._ended(talk, full, message, start, same)
        return self._silent(talk, full, message)

    def _prompted(self, talk: Talk, full: View, message: int) -> bool:
        upto = message == len(talk.messages) - 1 or full.text.startswith(self.template.plain(talk, message + 1))
        return upto and message > 0 and full.text.startswith(self.template.plain(talk, message, prompt=True))

    def _silent(self, talk: Talk, full: View, message: int) -> Turn:
        """A turn of which the text shows nothing: placed in the text as it would be if the turn said a word."""
        spoken = Talk(talk.id, [dict(m) for m in talk.messages], talk.tools, talk.wanted)
        spoken.messages[message]["content"] = PROBE
        view = View.of(self.template.tracked(spoken), self.added, talk.id)
        places = view.bodies(message)
        if len(places) != 1 or view.text[: places[0][0]] + view.text[places[0][1] :] != full.text:
            raise _refusal(talk, message, "the template leaves out its content, and what remains cannot be told")
        start, same = self._start(spoken, view, message)
        turn = self._ended(spoken, view, message, start, same)
        start, end = (at - len(PROBE) if at >= places[0][1] else at for at in (turn.start, turn.end))
        return evolve(turn, start=start, end=end)

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
        if not message:
            return self._first_header(talk, full, first)
        if first is None:
            raise _refusal(talk, message, "the template leaves out its content and rewrites what is before it")
        if any(owner == UNKNOWN for _, _, owner in full.spans):
            raise _refusal(talk, message, "the template rewrites history and its text cannot be followed")
        before = View.of(self.template.tracked(talk, message, prompt=True), self.added, talk.id)
        row_end, owner = before.rows_before(len(before.text))
        gap_start, gap_owner = full.rows_before(first)
        if owner != gap_owner:
            raise _refusal(talk, message, "what the template puts before it differs from the prompt at inference")
        same = self._common(before.elements(row_end, len(before.text)), full.elements(gap_start, first))
        if same is None:
            raise _refusal(talk, message, "what the template puts before it differs from the prompt at inference")
        return gap_start + same, False

    def _first_header(self, talk: Talk, full: View, first: int | None) -> tuple[int, bool]:
        asked = Talk(talk.id, [{"role": "user", "content": PROBE}], None, [True])
        prompt, without = self.template.plain(asked, prompt=True), self.template.plain(asked)
        if first is None or not prompt.startswith(without) or prompt == without:
            raise _refusal(talk, 0, "nothing comes before it, and its header cannot be told")
        gap_start = full.rows_before(first)[0]
        header, gap = self._cut(prompt[len(without) :]), full.elements(gap_start, first)
        opened = max((i for i, part in enumerate(gap) if part == header[0]), default=len(gap))
        same = self._common(header, gap[opened:])
        if same is None or same < len(header[0]):
            raise _refusal(talk, 0, "nothing comes before it, and its header cannot be told")
        return gap_start + sum(map(len, gap[:opened])) + same, False

    def _cut(self, text: str) -> list[str]:
        """Text of the template cut into control tokens and what lies between."""
        parts, at = [], 0
        for found in self.added.pattern.finditer(text):
            parts += [text[at : found.start()], found.group()]
            at = found.end()
        return [part for part in [*parts, text[at:]] if part]

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
            said_here = full.text[a:b].strip()
            if bool(said_here) != bool(words) or not words.endswith(said_here):
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
            if (handover := self._handover(follower)) is not None:
                return Turn(message, start, region, same, handover=handover)
        else:
            for mark in full.marks:
                if mark.start == region and mark.special:
                    return Turn(message, start, mark.end, same)
        closing = full.text[last:region]
        stops = any(mark.end == last + len(closing.rstrip()) > last for mark in full.marks)
        return Turn(message, start, last + len(closing.rstrip()), same, stops=stops)

    def _handover(self, follower: str) -> int | None:
        """The special token that opens a turn of `follower` right behind an answer, if the template writes one."""
        if follower not in self._openings:
            said = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}]
            asked = Talk(PROBE, said, None, [True] * 2)
            try:
                short = self.template.plain(asked)
                longer = self.template.plain(asked, more=[{"role": follower, "content": PROBE}])
            except InputError:
                short, longer = "", ""
            opening = self.added.pattern.match(longer, len(short)) if longer.startswith(short) else None
            special = opening is not None and self._special(opening.group())
            self._openings[follower] = self.added.tokens[opening.group()][0] if opening and special else None
        return self._openings[follower]

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
            if a in self.added.tokens or b in self.added.tokens or a.isspace() or b.isspace():
                return length
            shared = next((a[:at] for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(a, b, key=len))
            shared = shared if shared in (a, b) else shared[: len(shared.rstrip(_LETTERS))]
            return length + len(shared) if shared.strip() else None
        return length

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


def _refusal(talk: Talk, message: int, reason: str) -> InputError:
    return InputError(f"cannot prove which tokens are turn {message}: {reason}", where=talk.id)
