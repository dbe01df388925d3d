"""Encoded rows as people read them: one document after the other, each token with its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import IGNORED, Encoded, token_sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_LETTER = 8
SIDES = {"pairs": ("chosen", "rejected")}


@frozen
class Token:
    """One token: id, text (that of a letter spread over several tokens stands with the first), and what it is.

    `weight` is the factor of its loss, 0 where it is not trained.
    """

    id: int
    text: str
    trained: bool
    special: bool
    weight: float


def documents(encoded: Encoded) -> Iterator[tuple[str, Sequence[int], Sequence[float]]]:
    """Name, ids and weights in the loss (0: not trained) of all that a model reads of encoded rows, packed or not."""
    for row in encoded.dataset:
        found = token_sequences(encoded.schema, row)
        names = row["row"] if len(row["row"]) == len(found) else [row["row"][0]] * len(found)
        sides = SIDES.get(encoded.schema, ())
        for at, (name, one) in enumerate(zip(names, found, strict=True)):
            weights = one.weights or [float(label != IGNORED) for label in one.labels]
            yield f"{name}, {sides[at]}" if sides else name, one.input_ids, weights


def tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], weights: Sequence[float]) -> list[Token]:
    """Each token with the text it adds to those before it."""
    special = set(tokenizer.all_special_ids)
    made: list[Token] = []
    waiting: list[int] = []
    for at, number in enumerate(ids):
        waiting.append(number)
        text = _added(tokenizer, ids[max(at + 1 - len(waiting) - 1, 0) : at + 1 - len(waiting)], waiting)
        if text.endswith("\ufffd") and len(waiting) < LONGEST_LETTER and at + 1 < len(ids):
            continue
        for place, token in enumerate(waiting):
            index = at + 1 - len(waiting) + place
            made.append(Token(token, "" if place else text, weights[index] > 0, token in special, weights[index]))
        waiting = []
    return made


def _added(tokenizer: Any, before: Sequence[int], ids: Sequence[int]) -> str:
    front = tokenizer.decode(before) if before else ""
    whole: str = tokenizer.decode([*before, *ids])
    return whole[len(front) :]
