"""Token sequences as tensors: end to end without padding, as padded rows, or one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from attrs import define, field, frozen
from torch import Tensor

from loraplug import IGNORED, TokenSequence
from loraplug_train.objectives.base import Row

Way = Literal["end-to-end", "padded", "one-by-one"]
"""How sequences are computed together; see `separation`."""


@define
class MicroBatchLimits:
    """How a step is split for computation; changes no result but for rounding.

    Attributes:
        max_rows, max_tokens: limits of a micro-batch; a single row may have more tokens.
        checkpointing: whether activations are recomputed in the backward pass.
        way: how sequences are computed together, see `separation`.
        limit: tokens of sequences that may be together, as beyond them the model computes in another way; None: any.
    """

    max_rows: int
    max_tokens: int | None = None
    checkpointing: bool = False
    way: Way = "end-to-end"
    limit: int | None = None

    def halve(self, rows: int) -> bool:
        """Halve the micro-batch that did not fit into memory; False if it was a single row."""
        self.max_rows = min(self.max_rows, rows) // 2
        return self.max_rows > 0


@frozen
class Piece:
    """Sequences that go through the model in one call.

    Attributes:
        inputs: what the model takes: `input_ids` of shape (rows, tokens), with `position_ids` that start again at 0
            with each sequence, or with an `attention_mask`.
        labels: int64 of shape (rows, tokens), -100 where there is none, and on the first token of every sequence.
    """

    inputs: dict[str, Tensor]
    labels: Tensor

    @property
    def kept(self) -> Tensor:
        """Which of `labels[:, 1:]` are labels: bool of shape (rows, tokens - 1)."""
        return self.labels[:, 1:] != IGNORED


@define(eq=False)
class MicroBatch:
    """See `objectives.base.Batch`; `pieces` are computed one after the other, their labels are those of the batch."""

    rows: Sequence[Row]
    found: Sequence[TokenSequence]
    pieces: Sequence[Piece]
    device: Any
    metrics: dict[str, Any] = field(factory=dict)

    @property
    def sequences(self) -> int:
        """How many there are."""
        return len(self.found)

    @property
    def label_counts(self) -> list[int]:
        """Labels by sequence."""
        return [one.label_count for one in self.found]

    @property
    def index(self) -> Tensor:
        """See `Batch`."""
        counts = torch.tensor(self.label_counts)
        return torch.repeat_interleave(torch.arange(len(counts)), counts).to(self.device)

    @property
    def labels(self) -> Tensor:
        """See `Batch`."""
        counted = [label for one in self.found for label in one.labels[1:] if label != IGNORED]
        return torch.tensor(counted, dtype=torch.int64, device=self.device)

    @property
    def weights(self) -> Tensor:
        """See `Batch`."""
        if all(one.weights is None for one in self.found):
            return torch.ones(sum(self.label_counts), device=self.device)
        return torch.tensor(label_weights(self.found), dtype=torch.float32, device=self.device)

    def sums(self, values: Tensor) -> Tensor:
        """See `Batch`."""
        return values.new_zeros(self.sequences).index_add(0, self.index, values)

    def counts(self) -> Tensor:
        """See `Batch`."""
        return torch.tensor(self.label_counts, dtype=torch.float32, device=self.device)


def micro_batch(
    rows: Sequence[Row], found: Sequence[TokenSequence], limits: MicroBatchLimits, device: Any, pad: int = 0
) -> MicroBatch:
    """Sequences of rows as a batch on a device, laid out so that they do not attend to each other."""
    return MicroBatch(rows, found, [piece(group, limits.way, device, pad) for group in groups(found, limits)], device)


def groups(found: Sequence[TokenSequence], limits: MicroBatchLimits) -> list[list[TokenSequence]]:
    """Indices of the sequences that are computed in one call, in their order."""
    made: list[list[TokenSequence]] = []
    tokens = 0
    for one in found:
        tokens += len(one.input_ids)
        alone = not made or limits.way == "one-by-one" or (limits.limit is not None and tokens > limits.limit)
        if alone:
            made.append([])
            tokens = len(one.input_ids)
        made[-1].append(one)
    return made


def piece(found: Sequence[TokenSequence], way: Way, device: Any, pad: int = 0) -> Piece:
    """The input tensors of sequences that are computed in one call."""
    if len(found) == 1 or way == "padded":
        longest = max(len(one.input_ids) for one in found)
        ids = torch.full((len(found), longest), pad)
        labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for at, one in enumerate(found):
            length = len(one.input_ids)
            ids[at, :length] = torch.tensor(one.input_ids)
            labels[at, 1:length] = torch.tensor(one.labels[1:])
            mask[at, :length] = 1
        return Piece({"input_ids": ids.to(device), "attention_mask": mask.to(device)}, labels.to(device))
    starts = list(accumulate((len(one.input_ids) for one in found), initial=0))[:-1]
    ids = torch.tensor([[token for one in found for token in one.input_ids]])
    labels = torch.tensor([[label for one in found for label in one.labels]])
    labels[0, starts] = IGNORED
    positions = torch.cat([torch.arange(len(one.input_ids)) for one in found])[None]
    return Piece({"input_ids": ids.to(device), "position_ids": positions.to(device)}, labels.to(device))


def label_weights(found: Sequence[TokenSequence]) -> list[float]:
    """The weights of the labels that count, one sequence after the other."""
    return [weight for one in found for weight in _weights(one)]


def _weights(one: TokenSequence) -> list[float]:
    if one.weights is None:
        return [1.0] * one.label_count
    return [weight for weight, label in zip(one.weights[1:], one.labels[1:], strict=True) if label != IGNORED]
