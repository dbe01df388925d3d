"""Encoded rows for training steps: read by index, checked, with the reference model's log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from attrs import define

from loraplug import InputError
from loraplug_train.engine.batches import MicroBatchLimits
from loraplug_train.objectives.base import Objective, Row

if TYPE_CHECKING:
    from datasets import Dataset

    from loraplug_train.engine.references import References

REFERENCE = "reference_log_probs"
"""The key under which a row carries the reference model's log-probabilities of its labels."""
_NAMED = 5  # rows named in a message
_AT_ONCE = 256  # rows read at once


@define(eq=False)
class StepRows:
    """Random access to the encoded rows."""

    dataset: Dataset
    references: References | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of these indices, as dictionaries of columns."""
        columns = self.dataset[list(indices)]
        rows = [{name: column[at] for name, column in columns.items()} for at in range(len(indices))]
        if self.references is not None:
            for row, index in zip(rows, indices, strict=True):
                row[REFERENCE] = self.references.of(index)
        return rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self.take(range(start, min(start + _AT_ONCE, len(self))))


def check_rows(objective: Objective, dataset: Dataset, what: str) -> tuple[list[int], list[int]]:
    """The tokens and the labels that count of each row.

    Raises:
        InputError: the objective refuses a row.
    """
    costs, labels, wrong = [], [], []
    for row in StepRows(dataset):
        if fault := objective.fault(row):
            wrong.append(f"{row['row'][0]}: {fault}")
            continue
        costs.append(objective.cost(row))
        labels.append(sum(one.label_count for one in objective.sequences(row)))
    if wrong:
        more = f", and {len(wrong) - _NAMED} more rows" if len(wrong) > _NAMED else ""
        raise InputError(f"cannot be trained on: {'; '.join(wrong[:_NAMED])}{more}", where=what,
                         todo="correct these rows, or remove them from the data")  # fmt: skip
    return costs, labels


def documents(row: Row, limits: MicroBatchLimits) -> list[Row]:
    """A row of the schema `tokens`, split into its documents if they may not be packed."""
    lengths = row.get("seq_lengths")
    together = limits.way == "end-to-end" and (limits.limit is None or len(row["input_ids"]) <= limits.limit)
    if together or not lengths or len(lengths) == 1:
        return [row]
    columns = ("input_ids", "labels", "token_weights")
    found: list[Row] = []
    for start, end in pairwise(accumulate(lengths, initial=0)):
        cut = {name: row[name][start:end] for name in columns if row.get(name) is not None}
        found.append({**row, **cut, "seq_lengths": None})
    return found
