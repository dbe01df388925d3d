"""Which rows each optimizer step uses: fixed by seed and data, on any machine and number of processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from datasets import Dataset


@frozen
class BatchSchedule:
    """The batches of the whole training, fixed before it begins: `steps[i]` holds the row indices of optimizer step i +
    1.
    """

    steps: list[list[int]]
    steps_per_epoch: float

    def epoch(self, step: int) -> float:
        """Epochs (fractional) completed after `step` steps."""
        return step / self.steps_per_epoch


def build_schedule(
    lengths: Sequence[int],
    seed: int,
    epochs: float,
    max_steps: int | None = None,
    batch_size: int = 4,
    tokens_per_step: int | None = None,
    sets: Sequence[str] | None = None,
) -> BatchSchedule:
    """Shuffle the rows of every epoch and split them into optimizer steps.

    An epoch's order is that of transformers' sampler (`randperm` seeded with seed + epoch). A step holds `batch_size`
    rows, or with `tokens_per_step` as many as fit into that many tokens (at least one); an epoch's last step may be
    smaller.

    Args:
        lengths: tokens of each row.
        epochs: passes over the rows; a fraction is rounded up to whole steps.
        max_steps: number of steps; overrides `epochs`.
        sets: of which data set each row is, where they are interleaved: every epoch keeps that sequence, and draws
            which row of its set stands at each place.
    """
    import torch

    steps: list[list[int]] = []
    generator = torch.Generator()
    wanted = math.inf if max_steps is None else max_steps
    first = 0
    for epoch in range(math.ceil(epochs) if max_steps is None else max_steps):
        order = torch.randperm(len(lengths), generator=generator.manual_seed(seed + epoch)).tolist()
        order = order if sets is None else _in_sequence(order, sets)
        made = _by_tokens(order, lengths, tokens_per_step) if tokens_per_step else _by_rows(order, batch_size)
        first = first or len(made)
        if max_steps is None and epoch + 1 > epochs:  # the last epoch is partial
            made = made[: math.ceil((epochs - epoch) * len(made))]
        steps += made
        if len(steps) >= wanted:
            break
    return BatchSchedule(steps[:max_steps], first)


def _in_sequence(order: list[int], sets: Sequence[str]) -> list[int]:
    """Rows in the sequence of their sets, those of one set in the order given."""
    named = list(sets)
    waiting: dict[str, list[int]] = {}
    for row in reversed(order):
        waiting.setdefault(named[row], []).append(row)
    return [waiting[name].pop() for name in named]


def _by_rows(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _by_tokens(order: list[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    steps: list[list[int]] = []
    room = 0
    for row in order:
        if not steps or lengths[row] > room:
            steps.append([])
            room = budget
        steps[-1].append(row)
        room -= lengths[row]
    return steps


def partition_by_length(lengths: Sequence[int], world: int) -> list[list[int]]:
    """The positions of a step's rows that each of `world` processes computes: longest first, to the least loaded
    process.
    """
    loads, parts = [0] * world, [[] for _ in range(world)]  # type: list[int], list[list[int]]
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        least = loads.index(min(loads))
        loads[least] += lengths[at]
        parts[least].append(at)
    return [sorted(part) for part in parts]


def micro_batches(
    lengths: Sequence[int], most_rows: int, most_tokens: int | None, padded: bool = False
) -> list[list[int]]:
    """Consecutive positions computed at once: at most so many rows, and tokens where a limit is given (or one row).

    Args:
        lengths: tokens of each row.
        padded: whether rows are padded to the longest; padding counts as tokens, then.
    """
    batches: list[list[int]] = []
    tokens = longest = 0
    for at, length in enumerate(lengths):
        rows = len(batches[-1]) + 1 if batches else 1
        together = rows * max(longest, length) if padded else tokens + length
        if not batches or rows > most_rows or (most_tokens is not None and together > most_tokens):
            batches.append([])
            tokens = longest = 0
        batches[-1].append(at)
        tokens, longest = tokens + length, max(longest, length)
    return batches


@frozen
class Rows:
    """A dataset that returns a batch as a list of rows, for torch's `DataLoader`."""

    rows: Dataset

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        columns = self.rows[indices]
        return [{name: column[at] for name, column in columns.items()} for at in range(len(indices))]
