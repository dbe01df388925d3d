"""Contrastive preference optimisation (Xu et al. 2024), as trl's experimental `CPOTrainer` computes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from attrs import field, frozen, validators

from loraplug import Doc, Problem
from loraplug_train.objectives import pairs
from loraplug_train.objectives.base import Batch, Objective, Policy, Row
from loraplug_train.objectives.pairs import Sides

if TYPE_CHECKING:
    from torch import Tensor


@frozen
class Cpo(Objective):
    """Contrastive preference optimisation: no reference model; also trains on the chosen answer."""

    schema: ClassVar[str] = "pairs"

    loss_type: Annotated[
        Literal["sigmoid", "hinge", "ipo"], Doc("the loss, by its name in trl; ipo uses means over tokens")
    ] = field(default="sigmoid", kw_only=True)
    beta: Annotated[float, Doc("scale of the log-probability difference; for ipo the regularisation tau")] = field(
        default=0.1, validator=validators.gt(0), kw_only=True
    )
    label_smoothing: Annotated[float, Doc("for sigmoid: the probability that a pair's labels are swapped")] = field(
        default=0.0, validator=[validators.ge(0), validators.le(0.5)], kw_only=True
    )
    cpo_alpha: Annotated[float, Doc("weight of the cross-entropy of the chosen answers")] = field(
        default=1.0, validator=validators.ge(0), kw_only=True
    )

    def option_problems(self) -> Iterable[Problem]:
        """Options that cannot be combined."""
        if self.label_smoothing and self.loss_type != "sigmoid":
            yield Problem("trainer.label_smoothing", 'is used only by the loss "sigmoid"; leave it out')

    def totals(self, step_rows: Sequence[Row]) -> Mapping[str, float]:
        """See `Objective.totals`: pairs, and trained tokens of the chosen answers."""
        return pairs.totals(step_rows)

    def loss(
        self, model: Policy, batch: Batch, totals: Mapping[str, float], prepared: Any, reference: Tensor | None
    ) -> Tensor:
        """See `Objective.loss`."""
        log_probs = model.log_probs(batch)
        answers = Sides.of(batch.sums(log_probs))
        if self.loss_type == "ipo":
            answers = answers / Sides.of(batch.counts())
        pairs.tell(batch, answers, Sides(self.beta * answers.chosen, self.beta * answers.rejected), totals["rows"])
        by_pair = cpo_losses(self.loss_type, answers, self.beta, self.label_smoothing)
        return by_pair.sum() / totals["rows"] + self.cpo_alpha * pairs.chosen_loss(log_probs, batch, totals)


def cpo_losses(
    kind: Literal["sigmoid", "hinge", "ipo"], answers: Sides, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """The loss of each of P pairs, shape (P,).

    Args:
        kind: which loss.
        answers: log-probabilities of the answers; of `ipo` their means over tokens.
        beta: scale of the log-probability difference.
        label_smoothing: for `sigmoid`: the probability that a pair's labels are swapped.
    """
    import torch
    from torch.nn.functional import logsigmoid

    apart = answers.chosen - answers.rejected
    if kind == "hinge":
        return torch.relu(1 - beta * apart)
    if kind == "ipo":
        return (apart - 1 / (2 * beta)) ** 2
    return -logsigmoid(beta * apart) * (1 - label_smoothing) - logsigmoid(-beta * apart) * label_smoothing
