"""Rows of a shape that was proved once need no rendering: their contents go into holes in the text.

To learn a shape (the roles of a conversation), the template is rendered with sealed contents: text that can be joined,
printed and stripped, but not looked at. Any comparison, test, search or cut raises. If the template gets through, what
it writes around the contents cannot depend on them, so it is the same for every row of the shape, and so is the proof
that each turn stands behind the prompt of inference. Templates that look into contents are rendered row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from attrs import define, frozen

from loraplug import InputError
from loraplug_chat.endings import Turn
from loraplug_chat.marks import Added, AnnotatedText, Mark
from loraplug_chat.opaque import OpaqueStr
from loraplug_chat.provenance import CLOSE, OPEN, TEMPLATE, InspectedError, ProvenanceStr, TrackedDict
from loraplug_chat.template import Template, TemplateInput, body, merged, role

HOLE = 1_000_000
CUTS: dict[str, Callable[[str], str]] = {"": str, "strip": str.strip, "lstrip": str.lstrip, "rstrip": str.rstrip}
Part = str | tuple[int, str]


@frozen
class Shape:
    """What the template writes for conversations with these roles.

    Attributes:
        parts: in turn a text of the template and a hole: the message's number, and how its content is stripped.
        marks: for each text its control tokens (start, end, id, special).
        turns: of each trained turn its message, and (part, offset) of start and end.
    """

    parts: Sequence[Part]
    marks: Sequence[Sequence[Mark]]
    turns: Sequence[tuple[int, tuple[int, int], tuple[int, int]]]

    def fill(self, talk: TemplateInput) -> tuple[AnnotatedText, list[Turn]]:
        """Text, control tokens and turns of a row of this shape."""
        made: list[str] = []
        starts: list[int] = []
        marks: list[Mark] = []
        at = 0
        for part, inside in zip(self.parts, self.marks, strict=True):
            starts.append(at)
            if isinstance(part, str):
                marks += [Mark(at + a, at + b, number, special) for a, b, number, special in inside]
                text = part
            else:
                text = CUTS[part[1]](talk.messages[part[0]]["content"])
            made.append(text)
            at += len(text)
        turns = [Turn(message, starts[a] + x, starts[b] + y, True) for message, (a, x), (b, y) in self.turns]
        return AnnotatedText("".join(made), (), marks), turns

    def fits(self, talk: TemplateInput, view: AnnotatedText, turns: Sequence[Turn]) -> bool:
        """Whether a row proved the long way is what this shape makes of it."""
        made, found = self.fill(talk)
        return made.text == view.text and made.marks == view.marks and found == list(turns)


@define
class Shapes:
    """Learns shapes from rows that were proved the long way."""

    template: Template
    added: Added

    def learn(self, talk: TemplateInput, view: AnnotatedText, turns: Sequence[Turn]) -> Shape | None:
        """The shape of a proved row; None where the template looks at contents, or a turn has not its own prompt."""
        if talk.tools or view.escaped_special or view.inside or not self.template.sealable:
            return None
        if not all(turn.same_prompt and turn.stops and turn.implicit_eos is None for turn in turns):
            return None
        try:
            parts = self._sealed(talk, len(talk.messages), prompt=False)
            for turn in turns:
                if not _begins(parts, self._sealed(talk, turn.message, prompt=True), talk, turn.start):
                    return None
        except (InspectedError, InputError, _UnclearError):
            return None
        if any(_may_join(part, self.added.tokens) for part in parts if isinstance(part, str)):
            return None
        marks = [
            [
                Mark(*found.span(), *self.added.tokens[found.group()])
                for found in self.added.pattern.finditer(part if isinstance(part, str) else "")
            ]
            for part in parts
        ]
        places = [(turn.message, _place(parts, talk, turn.start), _place(parts, talk, turn.end)) for turn in turns]
        if any(start is None or end is None for _, start, end in places):
            return None
        shape = Shape(parts, marks, places)  # type: ignore[arg-type]
        return shape if shape.fits(talk, view, turns) else None

    def _sealed(self, talk: TemplateInput, upto: int, *, prompt: bool) -> list[Part]:
        messages, seals = [], {}
        for index, message in enumerate(talk.messages[:upto]):
            made = TrackedDict()
            made["role"] = ProvenanceStr(message["role"], ((role(index), len(message["role"])),))
            seals[index] = f"\ue0e0{index}\ue0e1"
            made["content"] = OpaqueStr(seals[index], ((HOLE + body(index), len(seals[index])),))
            made._owner = body(index)
            messages.append(made)
        text = self.template.sealed(talk, messages, prompt=prompt)
        plain = str.__getitem__(text, slice(None))
        parts: list[Part] = [""]
        for start, end, owner in merged(text.runs):
            if owner >= HOLE:
                cut, whose = divmod(owner - HOLE, HOLE)
                index = whose // 2
                if plain[start:end] != seals[index]:
                    raise _UnclearError
                parts += [(index, list(CUTS)[cut]), ""]
            elif owner in (TEMPLATE, OPEN, CLOSE) or owner % 2 == 1:
                parts[-1] += plain[start:end]  # type: ignore[operator]
            else:
                raise _UnclearError
        if any("\ue0e0" in part for part in parts if isinstance(part, str)):
            raise _UnclearError
        return parts


class _UnclearError(Exception):
    """Content came out in a way that holes cannot tell."""


def _may_join(text: str, tokens: Iterable[str]) -> bool:
    """Whether content beside `text` could complete a token that begins or ends in it."""
    return any(
        text.endswith(token[:size]) or text.startswith(token[-size:])
        for token in tokens
        for size in range(1, len(token))
    )


def _text(part: Part, talk: TemplateInput) -> str:
    return part if isinstance(part, str) else CUTS[part[1]](talk.messages[part[0]]["content"])


def _begins(parts: Sequence[Part], prompt: Sequence[Part], talk: TemplateInput, start: int) -> bool:
    """Whether the prompt is the beginning of the whole, whatever the contents, and ends at `start`."""
    last = len(prompt) - 1
    if len(parts) < len(prompt) or list(parts[:last]) != list(prompt[:last]):
        return False
    whole, end = parts[last], prompt[last]
    if not isinstance(whole, str) or not isinstance(end, str) or not whole.startswith(end):
        return False
    return sum(len(_text(part, talk)) for part in prompt) == start


def _place(parts: Sequence[Part], talk: TemplateInput, at: int) -> tuple[int, int] | None:
    """Part and offset of a character, which must be in or at the edge of a text of the template."""
    begin = 0
    for number, part in enumerate(parts):
        length = len(_text(part, talk))
        if isinstance(part, str) and begin <= at <= begin + length:
            return number, at - begin
        begin += length
    return None
