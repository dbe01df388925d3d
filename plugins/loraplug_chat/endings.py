"""Finds where a trained turn ends: at its end-of-turn token, before the header of the next turn.

What the template writes behind an answer closes the turn, up to its last control token. Some templates write the header
of a next turn there, whatever comes; it is told by the control tokens with which a turn opens a conversation. Where the
tokenizer lacks the template's control tokens, what is written like one takes their place: it ends the turn as text.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field, frozen

from loraplug import InputError
from loraplug_chat.marks import Added, AnnotatedText
from loraplug_chat.provenance import UNKNOWN
from loraplug_chat.template import Template, TemplateInput

PROBE = "probe"


@frozen
class Turn:
    """A trained span text[start:end].

    Attributes:
        message: number of the message it comes from.
        start: first character that the model must generate.
        end: one behind its end-of-turn token (or behind its text, where the template writes no such token).
        same_prompt: text[:start] is what inference puts in front of it.
        stops: whether an end-of-turn token is inside, or comes as `implicit_eos`.
        implicit_eos: a token to append to the whole text, for templates that write no end-of-turn token.
    """

    message: int
    start: int
    end: int
    same_prompt: bool
    stops: bool = True
    implicit_eos: int | None = None


@define
class Endings:
    """Finds ends of turns. Remembers closings it has proved, so that most rows need no further rendering.

    Attributes:
        opening: control tokens that open a turn.
        headers: what stands before a user's word and before an answer where a conversation begins.
    """

    template: Template
    added: Added
    opening: frozenset[str]
    headers: tuple[str, ...]
    _closings: set[str] = field(factory=set)
    _handovers: dict[str, int | None] = field(factory=dict)

    @classmethod
    def of(cls, template: Template, added: Added, end: str | None) -> Endings:
        """For a template; `end` is the tokenizer's end-of-sequence token, which opens nothing."""
        asked = TemplateInput(PROBE, [{"role": "user", "content": PROBE}], None, [True])
        try:
            prompt = template.plain(asked, prompt=True)
        except InputError:
            prompt = ""
        before = prompt.partition(PROBE)[0]
        opening = set()
        for part in added.cut(before):
            if not added.is_token(part):
                break
            opening.add(part)
        return cls(template, added, frozenset(opening - {end}), (before.rstrip(), prompt.rstrip()))

    def turn(self, talk: TemplateInput, full: AnnotatedText, message: int, start: int, same: bool) -> Turn:
        """The turn of a message that begins at `start`; `same` as in `Turn.same_prompt`.

        Raises:
            InputError: its end cannot be proved, with the reason.
        """
        last_message = message == len(talk.messages) - 1
        region = len(full.text)
        if not last_message:
            places = [span for span in full.bodies(message) if span[0] >= start]
            if places:
                behind = full.text[places[-1][1] : full.rows_after(places[-1][1])]
                if known := max((c for c in self._closings if behind.startswith(c)), key=len, default=""):
                    return self._ended(full, message, start, places[-1][1] + len(known), same)
            upto = self.template.plain(talk, message + 1)
            if not (full.text.startswith(upto) and len(upto) >= start):
                return self._ended(full, message, start, self._rewritten_end(talk, full, message, start), same)
            region = len(upto)
        places = [span for span in full.bodies(message) if start <= span[0] and span[1] <= region]
        last = places[-1][1] if places else start
        headed = region
        region = last + sum(map(len, self._closing(self.added.cut(full.text[last:region]))))
        stops = [mark for mark in full.marks if last <= mark.start and mark.end <= region and mark.special]
        if stops:
            if places and not last_message:
                self._closings.add(full.text[last : stops[-1].end])
            return self._ended(full, message, start, stops[-1].end, same)
        return self._unstopped(talk, full, message, start, last, region, same, headed=region < headed)

    def _closing(self, parts: list[str]) -> list[str]:
        """What stands behind an answer, without the header of a next turn."""
        for at, part in enumerate(parts):
            if part in self.opening and any(map(self.added.is_control, parts[:at])):
                header = "".join(parts[at:]).rstrip()
                if any(known.endswith(header) for known in self.headers):
                    return parts[:at]
        return parts

    def _ended(self, full: AnnotatedText, message: int, start: int, end: int, same: bool) -> Turn:
        """The turn with this end, which stops the model if a token of the tokenizer's own is there."""
        return Turn(message, start, end, same, stops=any(mark.end == end for mark in full.marks))

    def _rewritten_end(self, talk: TemplateInput, full: AnnotatedText, message: int, start: int) -> int:
        alone = AnnotatedText.of(self.template.tracked(talk, message + 1), self.added, talk.id)
        said = alone.bodies(message)
        if not said or any(owner == UNKNOWN for _, _, owner in (*full.spans, *alone.spans)):
            raise unproved(
                talk, message, "the template rewrites earlier turns, and the turn cannot be located in its text"
            )
        words = alone.text[said[-1][0] : said[-1][1]].strip()
        tail = self._closing(self.added.cut(alone.text[said[-1][1] :]))
        for a, b in reversed([span for span in full.bodies(message) if span[0] >= start]):
            said_here = full.text[a:b].strip()
            if bool(said_here) != bool(words) or not words.endswith(said_here):
                continue
            gap = self.added.cut(full.text[b : full.rows_after(b)])
            for stops in (self._special, self.added.is_control):
                if (ends := self._matching_stop(tail, gap, stops)) is not None:
                    return b + ends
            if not any(map(self.added.is_control, tail)) and gap[: len(tail)] == tail:
                opened = len(tail) < len(gap) and self._special(gap[len(tail)])
                return b + len("".join(gap[: len(tail) + opened]).rstrip())
        raise unproved(talk, message, "the template rewrites earlier turns, and the end of the turn cannot be located")

    def _matching_stop(self, tail: list[str], gap: list[str], stops: Callable[[str], bool]) -> int | None:
        """Length of the part of `gap` that closes the turn as `tail` does, up to the token that `stops` the model."""
        found = [i for i, part in enumerate(tail) if stops(part)]
        if not found:
            return None
        core = tail[: found[-1] + 1]
        same = next((i for i, (a, b) in enumerate(zip(core, gap, strict=False)) if a != b), min(len(core), len(gap)))
        if shared := [i for i in range(same) if stops(core[i])]:
            return sum(map(len, gap[: shared[-1] + 1]))
        if same == len(core) - 1 and same < len(gap) and stops(gap[same]) and gap[same] not in self.opening:
            return sum(map(len, gap[: same + 1]))
        return None

    def _special(self, part: str) -> bool:
        return self.added.tokens.get(part, (0, False))[1]

    def _unstopped(
        self,
        talk: TemplateInput,
        full: AnnotatedText,
        message: int,
        start: int,
        last: int,
        region: int,
        same: bool,
        *,
        headed: bool,
    ) -> Turn:
        """A turn after which the template writes no special token: the model stops by opening the next turn."""
        if region == len(full.text):
            follower = "tool" if talk.messages[message].get("tool_calls") else "user"
            if (implicit_eos := self._handover(follower)) is not None:
                return Turn(message, start, region, same, implicit_eos=implicit_eos)
        elif not headed:
            stops = {self._handover("user"), self._handover("tool")}
            for mark in full.marks:
                if mark.start == region and mark.id in stops:
                    return Turn(message, start, mark.end, same)
        return self._ended(full, message, start, last + len(full.text[last:region].rstrip()), same)

    def _handover(self, follower: str) -> int | None:
        """The special token that opens a turn of `follower` right behind an answer, if the template writes one."""
        if follower not in self._handovers:
            said = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}]
            asked = TemplateInput(PROBE, said, None, [True] * 2)
            try:
                short = self.template.plain(asked)
                longer = self.template.plain(asked, more=[{"role": follower, "content": PROBE}])
            except InputError:
                short, longer = "", ""
            opening = self.added.pattern.match(longer, len(short)) if longer.startswith(short) else None
            special = opening is not None and self._special(opening.group())
            self._handovers[follower] = self.added.tokens[opening.group()][0] if opening and special else None
        return self._handovers[follower]


def unproved(talk: TemplateInput, message: int, reason: str) -> InputError:
    """The error for a turn whose place cannot be verified."""
    return InputError(f"cannot verify which tokens belong to turn {message}: {reason}", where=talk.id)
