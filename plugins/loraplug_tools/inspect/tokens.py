"""Encoded rows as people read them: one document after the other, each token with its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

LONGEST_LETTER = 8


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


def documents(rows: Dataset) -> Iterator[tuple[str, list[int], list[float]]]:
    """Name, ids and weights in the loss (0: not trained) of every document of encoded rows, packed or not."""
    for row in rows:
        at = 0
        weights = row.get("token_weights") or [float(label != -100) for label in row["labels"]]
        for name, length in zip(row["row"], row.get("seq_lengths") or [len(row["input_ids"])], strict=True):
            yield name, row["input_ids"][at : at + length], weights[at : at + length]
            at += length


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
