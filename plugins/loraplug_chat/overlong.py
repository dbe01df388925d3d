"""Shortens rows with too many tokens. The question of a trained answer is never removed."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from attrs import evolve, field, frozen

from loraplug import Conversation, InputError
from loraplug_chat.outputs import MARKER, untrained
from loraplug_chat.wording import counted, named

if TYPE_CHECKING:
    from loraplug_chat.mask import Encoded
    from loraplug_chat.option_types import TextPolicy
    from loraplug_chat.plain import PlainRow

MANY = 64  # messages; proving a mask takes a rendering for each trained turn, measuring the text only one
ROUNDS = 4  # proofs, where the measure was wrong by a little
USUAL, LEAST = 400, 80  # characters of an output that stay while there are older turns to take out, and in the end
LONGER = "raise max_length, or choose another `overlong`"
NO_ROOM = "even reduced to the opening, the newest trained answer and the turn before it"

_LEFT = (
    f"1. the middles of tool outputs, the longest first, down to {USUAL} characters each, `{MARKER.format(1234)}` in "
    "their place; 2. turns behind the last trained answer; 3. the oldest answers, which are then no longer trained, "
    "with their turns, calls of tools together with their results; never the system turn, the first user turn, nor the "
    f"turn just before a trained answer; 4. more of the tool outputs, down to {LEAST} characters; "
    "5. a row that still does not fit is left out"
)
_RIGHT = "the tokens behind `max_length`; an answer that is cut there has no end-of-turn; a row of which no trained "
_RIGHT += "token is left is left out"
_TOO_LONG = "nothing; the row is left out"
_STOP = "nothing; the run stops"
TABLE: Mapping[str, tuple[str, str, str]] = {
    "truncate-left": (_LEFT, _TOO_LONG, "all but the last tokens"),
    "truncate-right": (_RIGHT, _RIGHT, "all but the first tokens, so also the end-of-sequence token"),
    "split": ("(refused)", _TOO_LONG, "nothing; the text becomes several rows of about the same length"),
    "auto": ("as `truncate-left`", "as `truncate-left`", "as `split`"),
    "drop": (_TOO_LONG, _TOO_LONG, _TOO_LONG),
    "error": (_STOP, _STOP, _STOP),
}
"""What is cut under each value of `overlong`: of conversations, of prompts with completions as text, of plain texts."""


class TalkEncoder(Protocol):
    """Encodes conversations."""

    def __call__(self, talk: Conversation) -> Encoded:
        """Ids and mask, proved; InputError where they cannot be."""

    def fits(self, talk: Conversation, most: int) -> bool:
        """Whether a conversation has about `most` tokens or less, without a proof; InputError as above."""

    def answers(self, talk: Conversation) -> list[int]:
        """Numbers of the messages that are trained."""


@frozen
class Fitted:
    """The result of shortening a row.

    Attributes:
        rows: what can be trained on, each at most `max_length` tokens; none if the row is left out.
        reason: why it is left out.
        counts: `truncated` (rows that lost something), `cut_outputs` and `cut_characters` (of tool outputs),
            `untrained_answers`, `removed_turns`, `cut_answers` (at their end), `cut_tokens` (thrown away of texts),
            `split` (texts) and `pieces` (rows they became).
        talk: the conversation that the row now is, if it is a whole one.
    """

    rows: Sequence[Encoded]
    reason: str = ""
    counts: Counter[str] = field(factory=Counter)
    talk: Conversation | None = None


def shortened(
    row: Encoded | None, talk: Conversation | None, encode: TalkEncoder | PlainRow, limit: int, policy: TextPolicy
) -> Fitted:
    """The row in at most `limit` tokens, as `TABLE` says; `row` is its encoding, where it has one.

    Raises:
        InputError: no form of the row can be encoded, with the reason.
    """
    if policy == "drop":
        return Fitted([], f"more than {limit} tokens")
    if talk is None:
        return _text(row, encode, limit, policy)  # type: ignore[arg-type]
    if policy == "truncate-right":
        return _beginning(row, talk, encode, limit)  # type: ignore[arg-type]
    from loraplug_chat.shorten import Shortener

    return Shortener(talk, encode, limit).fitted()  # type: ignore[arg-type]


def too_long(row: Encoded | None, name: str, limit: int) -> InputError:
    """The error that stops a run under `overlong = "error"`."""
    return InputError(
        f"has {len(row.ids)} tokens, more than max_length = {limit}" if row else f"has more than {limit} tokens",
        where=name,
        todo='raise max_length, or set overlong to another value, such as "truncate-left" or "drop"',
    )


def _text(row: Encoded, encode: PlainRow, limit: int, policy: TextPolicy) -> Fitted:
    if policy == "truncate-right":
        return cut_behind(row, limit, cut_tokens=len(row.ids) - limit)
    if encode.before:
        return Fitted([], f"more than {limit} tokens, and prompts are never cut")
    if policy == "truncate-left":
        last = encode.last(row, limit)
        return Fitted([last], counts=Counter(truncated=1, cut_tokens=len(row.ids) - len(last.ids)))
    pieces = encode.pieces(row, limit)
    return Fitted(pieces, counts=Counter(split=1, pieces=len(pieces)))


def _beginning(row: Encoded | None, talk: Conversation, encode: TalkEncoder, limit: int) -> Fitted:
    """The conversation up to the turn in which the limit falls, encoded anew and cut."""
    answers, count = encode.answers(talk), len(talk.messages)
    held = [
        untrained(message) if message["role"] == "assistant" and at not in answers else message
        for at, message in enumerate(talk.messages)
    ]  # or `train_on = "last-assistant"` would take the last that is left

    def begun(upto: int) -> Conversation:
        return evolve(talk, messages=held[:upto])

    first = bisect_left(range(1, count + 1), True, key=lambda upto: not _fits(begun(upto), encode, limit)) + 1
    for upto in range(first, min(first + ROUNDS, count)):
        try:
            part = encode(begun(upto))
        except InputError:
            continue
        if len(part.ids) > limit:
            break
    else:
        upto, part = count, row or encode(talk)
    made = cut_behind(part, limit)
    gone = sum(at >= upto for at in answers) + len(part.turns) - len(made.rows[0].turns)
    return evolve(made, counts=made.counts + Counter(untrained_answers=gone))


def _fits(talk: Conversation, encode: TalkEncoder, limit: int) -> bool:
    try:
        return encode.fits(talk, limit)
    except InputError:  # no conversation yet: there are templates that want a question
        return True


def cut_behind(row: Encoded, limit: int, **counts: int) -> Fitted:
    """The first `limit` tokens of a row."""
    turns = [(message, first, min(end, limit)) for message, first, end in row.turns if first < limit]
    cut = any(first < limit < end for _, first, end in row.turns)
    made = evolve(row, ids=row.ids[:limit], trained=row.trained[:limit], turns=turns)
    return Fitted([made], counts=Counter(truncated=1, cut_answers=int(cut), **counts))


def account(counts: Mapping[str, int], names: Sequence[str]) -> str:
    """What rows that were too long and are kept have lost; `names` are those of some."""
    parts = {
        "cut_outputs": f"{counts['cut_characters']:,} characters removed from the middle of "
        f"{counted(counts['cut_outputs'], 'tool output')}",
        "removed_turns": f"{counted(counts['removed_turns'], 'turn')} removed",
        "untrained_answers": f"{counted(counts['untrained_answers'], 'answer')} not trained",
        "cut_answers": f"{counted(counts['cut_answers'], 'answer')} cut at the end, so without end-of-turn token",
        "cut_tokens": f"{counts['cut_tokens']:,} tokens cut off",
    }
    lost = ", ".join(text for what, text in parts.items() if counts[what])
    return (
        f"shortened to max_length: {counted(counts['truncated'])} {named(names, counts['truncated'])}: {lost}; "
        'raise max_length to keep everything, or drop such rows with overlong = "drop"'
    )
