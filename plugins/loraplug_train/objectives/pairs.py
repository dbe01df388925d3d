"""What the objectives on pairs of a chosen and a rejected answer share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from torch import Tensor

    from loraplug_train.objectives.base import Batch, Row


@frozen
class Sides:
    """One value per pair for the chosen and for the rejected answer.

    Attributes:
        chosen, rejected: shape (P,).
    """

    chosen: Tensor
    rejected: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Sides:
        """Split values by sequence, shape (2P,), where chosen and rejected alternate."""
        return cls(values[0::2], values[1::2])

    def __sub__(self, other: Sides) -> Sides:
        return Sides(self.chosen - other.chosen, self.rejected - other.rejected)

    def __truediv__(self, other: Sides) -> Sides:
        return Sides(self.chosen / other.chosen, self.rejected / other.rejected)


def totals(objective_rows: Sequence[Row]) -> dict[str, float]:
    """Pairs of a step, and trained tokens of their chosen answers."""
    tokens = sum(label != -100 for row in objective_rows for label in row["chosen_labels"])
    return {"rows": float(len(objective_rows)), "chosen_tokens": float(tokens)}


def chosen_loss(log_probs: Tensor, batch: Batch, whole: Mapping[str, float]) -> Tensor:
    """The cross-entropy of the chosen answers: a micro-batch's share of the step's mean over their tokens."""
    return -log_probs[batch.index % 2 == 0].sum() / whole["chosen_tokens"]


def tell(batch: Batch, log_probs: Sides, rewards: Sides, rows: float) -> None:
    """Store the metrics that trl logs for pairs, by trl's names, in the batch: its share of the means over `rows`
    pairs.
    """
    told = {
        "logps/chosen": log_probs.chosen,
        "logps/rejected": log_probs.rejected,
        "rewards/chosen": rewards.chosen,
        "rewards/rejected": rewards.rejected,
        "rewards/accuracies": (rewards.chosen > rewards.rejected).float(),
        "rewards/margins": rewards.chosen - rewards.rejected,
    }
    batch.metrics.update({name: values.detach().sum() / rows for name, values in told.items()})
