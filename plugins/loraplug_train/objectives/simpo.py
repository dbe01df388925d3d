"""SimPO (Meng et al. 2024), as trl's experimental `CPOTrainer` computes it with `loss_type="simpo"`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from attrs import field, frozen, validators

from loraplug import Doc
from loraplug_train.objectives import pairs
from loraplug_train.objectives.base import Batch, Objective, Policy, Row
from loraplug_train.objectives.pairs import Sides

if TYPE_CHECKING:
    from torch import Tensor


@frozen
class SimPo(Objective):
    """SimPO: no reference model; compares the answers' mean log-probabilities per token, with a margin."""

    schema: ClassVar[str] = "pairs"

    beta: Annotated[
        float, Doc("scale of the difference of means; the paper uses 2 to 2.5, trl's default is smaller")
    ] = field(default=0.1, validator=validators.gt(0), kw_only=True)
    simpo_gamma: Annotated[float, Doc("target margin of the chosen answer, times beta")] = field(
        default=0.5, validator=validators.ge(0), kw_only=True
    )
    label_smoothing: Annotated[float, Doc("the probability that a pair's labels are swapped")] = field(
        default=0.0, validator=[validators.ge(0), validators.le(0.5)], kw_only=True
    )
    cpo_alpha: Annotated[float, Doc("weight of the cross-entropy of the chosen answers (CPO-SimPO)")] = field(
        default=0.0, validator=validators.ge(0), kw_only=True
    )

    def totals(self, step_rows: Sequence[Row]) -> Mapping[str, float]:
        """See `Objective.totals`: pairs, and trained tokens of the chosen answers."""
        return pairs.totals(step_rows)

    def loss(
        self, model: Policy, batch: Batch, totals: Mapping[str, float], prepared: Any, reference: Tensor | None
    ) -> Tensor:
        """See `Objective.loss`."""
        log_probs = model.log_probs(batch)
        means = Sides.of(batch.sums(log_probs)) / Sides.of(batch.counts())
        pairs.tell(batch, means, Sides(self.beta * means.chosen, self.beta * means.rejected), totals["rows"])
        made = simpo_losses(means, self.beta, self.simpo_gamma, self.label_smoothing).sum() / totals["rows"]
        return made + self.cpo_alpha * pairs.chosen_loss(log_probs, batch, totals) if self.cpo_alpha else made


def simpo_losses(means: Sides, beta: float, gamma: float, label_smoothing: float = 0.0) -> Tensor:
    """The loss of each of P pairs, shape (P,).

    Args:
        means: log-probability of the answers, a mean over their tokens.
        beta: scale of the difference.
        gamma: the margin, times beta.
        label_smoothing: the probability that a pair's labels are swapped.
    """
    from torch.nn.functional import logsigmoid

    logits = beta * (means.chosen - means.rejected - gamma / beta)
    return -logsigmoid(logits) * (1 - label_smoothing) - logsigmoid(-logits) * label_smoothing
