"""Log-probabilities of the reference model for every row, computed once before training and stored beside the
checkpoints.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field

from loraplug import Run, atomic_output
from loraplug_train.engine.rows import StepRows
from loraplug_train.objectives.base import Objective

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from loraplug_train.engine.policy import PolicyModel

_ROWS_AT_ONCE = 64


@define(eq=False)
class References:
    """Log-probabilities (nats) of the labels of rows, in a file: float32, one row after the other."""

    path: Path
    _file: Any = field(init=False)
    _ends: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        from safetensors import safe_open

        self._file = safe_open(self.path, framework="pt")
        self._ends = self._file.get_tensor("ends")

    @property
    def counts(self) -> list[int]:
        """Labels by row."""
        ends = [0, *self._ends.tolist()]
        return [end - start for start, end in pairwise(ends)]

    def of(self, row: int) -> Tensor:
        """The log-probabilities of one row, float32 of shape (labels,)."""
        start, end = (int(self._ends[row - 1]) if row else 0), int(self._ends[row])
        return self._file.get_slice("log_probs")[start:end]


def references(run: Run, policy: PolicyModel, objective: Objective, dataset: Dataset, name: str) -> References:
    """Score all rows with the reference model, or load the scores if the run is resumed; collective."""
    import torch
    from safetensors.torch import save_file

    place = run.folder / "checkpoints" / f"reference-{name}.safetensors"
    labels = [sum(one.label_count for one in objective.sequences(row)) for row in StepRows(dataset)]
    if run.distributed.broadcast(place.is_file() and References(place).counts == labels):
        return References(place)
    rows, parts = StepRows(dataset), []
    with run.progress("reference", len(rows)) as bar:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            taken = rows.take(range(start, min(start + _ROWS_AT_ONCE, len(rows))))
            parts += policy.scored([one for row in taken for one in objective.sequences(row)], reference=True)
            bar.advance(len(taken))
    if run.distributed.leads:
        ends = torch.tensor(labels).cumsum(0)
        with atomic_output(place) as out:
            out.parent.mkdir(parents=True, exist_ok=True)
            save_file({"log_probs": torch.cat(parts), "ends": ends}, out)
    run.distributed.barrier()
    return References(place)
