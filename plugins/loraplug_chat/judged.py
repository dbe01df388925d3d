"""Encodes preference rows: each side is masked as a separate conversation, and the prompt is split off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from loraplug import Conversation, InputError, Labelled, Preference, labelled, preference, row_id
from loraplug_chat.encoder import MaskEncoder
from loraplug_chat.forms import Forms
from loraplug_chat.overlong import LONGER, MANY, NO_ROOM, cut_behind, too_long
from loraplug_chat.report import SAMPLES, Report
from loraplug_chat.shorten import Shortener

if TYPE_CHECKING:
    from loraplug_chat.mask import Encoded
    from loraplug_chat.option_types import Policy
    from loraplug_chat.parity_check import Sample

Message = dict[str, Any]
_NOTHING = "check that the answers have text, and that `weight` and `train_on` do not exclude all of it"
_ALIKE = "the chat template omits what differs; correct the row, or remove it from the data"


@frozen
class Fitted:
    """The sides of a row, each within the limit.

    Attributes:
        talks: the conversation of each side; of one that was cut at its end the whole.
        rows: their encodings, in the same order; none where the row is left out.
        prompt: how many messages at the front of each conversation are the prompt.
        counts: what was cut, see `overlong.Fitted`.
        reason: why the row is left out.
    """

    talks: Sequence[Conversation] = ()
    rows: Sequence[Encoded] = ()
    prompt: int = 0
    counts: Counter[str] = field(factory=Counter)
    reason: str = ""


@frozen
class Sides:
    """All answers to one prompt as one `overlong.TalkEncoder`, of conversations whose last message stands for any.

    What is cut from such a conversation is cut from the prompt, and so alike for all answers.
    """

    of: Sequence[Sequence[Message]]
    encode: MaskEncoder

    def each(self, talk: Conversation) -> list[Conversation]:
        """The conversation with each of the answers."""
        return [evolve(talk, messages=[*talk.messages[:-1], *answer]) for answer in self.of]

    def __call__(self, talk: Conversation) -> Encoded:
        """The longest of them, encoded."""
        return max((self.encode(each) for each in self.each(talk)), key=lambda row: len(row.ids))

    def fits(self, talk: Conversation, most: int) -> bool:
        """Whether all have about `most` tokens or less."""
        return all(self.encode.fits(each, most) for each in self.each(talk))

    def answers(self, talk: Conversation) -> list[int]:
        """The message that stands for the answers."""
        return [len(talk.messages) - 1]


@frozen
class Judged:
    """Encodes rows of the schemas `pairs` and `labelled`.

    Attributes:
        schema: one of the two.
        forms: of the chat template.
        encode: which tokens of a conversation are trained.
        limit: the most tokens that a prompt and an answer may have together.
        policy: what becomes of longer ones.
    """

    schema: str
    forms: Forms
    encode: MaskEncoder
    limit: int
    policy: Policy

    def lines(
        self, row: Mapping[str, Any], index: int, report: Report, samples: list[Sample]
    ) -> Iterator[dict[str, Any]]:
        """The row in the columns of its schema; nothing where it is left out, which `report` counts."""
        name = row_id(row, index)
        try:
            read = preference(row, index) if self.schema == "pairs" else labelled(row, index)
            talks = [self.forms.fit(talk) for talk in _talks(read)]
            fitted = self._fitted(talks, read.prompt)
            line = self._line(read, fitted) if fitted is not None and fitted.rows else {}
        except InputError as error:
            report.lose(name, error.what, error.todo)
            return
        if fitted is None:
            raise too_long(None, name, self.limit)
        if not fitted.rows:
            report.lose(name, fitted.reason, LONGER)
            return
        for talk, encoded in zip(fitted.talks, fitted.rows, strict=True):
            report.note(talk)
            report.take(encoded)
            if len(samples) < SAMPLES and not fitted.counts["cut_answers"]:
                samples.append((talk, encoded))
        report.counts["kept"] -= len(fitted.rows) - 1
        if fitted.counts:
            report.shorten(name, fitted.counts)
        yield {"row": [name], **line}

    def _fitted(self, talks: list[Conversation], prompt: int) -> Fitted | None:
        """All sides within the limit; None where a longer one stops the run."""
        many = any(len(talk.messages) > MANY and not self.encode.fits(talk, self.limit) for talk in talks)
        rows = [] if many else [self.encode(talk) for talk in talks]
        if rows and all(len(row.ids) <= self.limit for row in rows):
            return Fitted(talks, rows, prompt)
        if self.policy == "error":
            return None
        if self.policy == "drop":
            return Fitted(reason=f"more than {self.limit} tokens")
        if self.policy == "truncate-right":
            return self._beginnings(talks, rows or [self.encode(talk) for talk in talks], prompt)
        return self._shortened(talks, prompt)

    def _beginnings(self, talks: list[Conversation], rows: Sequence[Encoded], prompt: int) -> Fitted:
        """The sides without what is behind the limit."""
        cut = [cut_behind(row, self.limit) if len(row.ids) > self.limit else None for row in rows]
        made = [part.rows[0] if part else row for part, row in zip(cut, rows, strict=True)]
        if not all(any(row.trained) for row in made):
            return Fitted(reason=f"the prompt alone fills {self.limit} tokens")
        counts = sum((part.counts for part in cut if part), Counter[str]())
        return Fitted(talks, made, prompt, Counter({**counts, "truncated": 1}))

    def _shortened(self, talks: list[Conversation], prompt: int) -> Fitted:
        """The sides behind a prompt that is cut for all of them alike."""
        sides = Sides([talk.messages[prompt:] for talk in talks], self.encode)
        stand_in = {"role": "assistant", "content": talks[0].messages[prompt].get("content") or "…"}
        whole = evolve(talks[0], messages=[*talks[0].messages[:prompt], stand_in])
        found = Shortener(whole, sides, self.limit).fitted()
        if found.talk is None:
            return Fitted(reason=f"more than {self.limit} tokens, {NO_ROOM}")
        shorter = sides.each(found.talk)
        made = [evolve(talk, messages=each.messages) for talk, each in zip(talks, shorter, strict=True)]
        return Fitted(made, [self.encode(talk) for talk in made], len(found.talk.messages) - 1, found.counts)

    def _line(self, read: Preference | Labelled, fitted: Fitted) -> dict[str, Any]:
        """The columns of a row.

        Raises:
            InputError: nothing is trained of a side, or the template makes prompts differ or answers alike.
        """
        rows = fitted.rows
        firsts = [next((at for at, weight in enumerate(row.trained) if weight), 0) for row in rows]
        if not all(firsts):
            raise InputError("no trained tokens are left", todo=LONGER if fitted.counts else _NOTHING)
        shared = min(firsts)
        if isinstance(read, Labelled):
            return {
                "prompt_ids": rows[0].ids[:shared],
                **side_columns("completion", rows[0], shared),
                "label": read.label,
            }
        chosen, rejected = rows
        if chosen.ids == rejected.ids:
            raise InputError("chosen and rejected are the same tokens", todo=_ALIKE)
        alike = next((at for at in range(shared) if chosen.ids[at] != rejected.ids[at]), shared)
        if alike < shared and all(self.encode.answers(talk)[:1] == [fitted.prompt] for talk in fitted.talks):
            what = "the chat template renders the prompts of chosen and rejected differently"
            raise InputError(what, todo="give both sides the same turns, or remove the row from the data")
        return {
            "prompt_ids": chosen.ids[:alike],
            **side_columns("chosen", chosen, alike),
            **side_columns("rejected", rejected, alike),
        }


def _talks(read: Preference | Labelled) -> list[Conversation]:
    return [read.talk] if isinstance(read, Labelled) else [read.chosen, read.rejected]


def side_columns(name: str, row: Encoded, start: int) -> dict[str, list[int]]:
    """Ids and labels of a side from a place on."""
    ids = row.ids[start:]
    labels = [token if weight else -100 for token, weight in zip(ids, row.trained[start:], strict=True)]
    return {f"{name}_ids": ids, f"{name}_labels": labels}
