"""Direct preference optimisation (Rafailov et al. 2023) and its variants, as trl's `DPOTrainer` computes them."""

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

LossType = Literal["sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down", "sft"]


@frozen
class Dpo(Objective):
    """Direct preference optimisation: raises the chosen answer over the rejected one, relative to a reference model."""

    schema: ClassVar[str] = "pairs"
    needs_reference: ClassVar[bool] = True

    loss_type: Annotated[
        LossType | tuple[LossType, ...],
        Doc("the loss, by its name in trl, or a list of losses to add; sft: cross-entropy of the chosen answers"),
    ] = field(default="sigmoid", kw_only=True)
    loss_weights: Annotated[tuple[float, ...] | None, Doc("a weight for each of several losses; default: 1 each")] = (
        field(default=None, kw_only=True)
    )
    beta: Annotated[float, Doc("strength of the KL constraint to the reference; for ipo the regularisation tau")] = (
        field(default=0.1, validator=validators.gt(0), kw_only=True)
    )
    label_smoothing: Annotated[
        float, Doc("for robust: the probability that a pair's labels are swapped, below 0.5")
    ] = field(default=0.0, validator=[validators.ge(0), validators.lt(0.5)], kw_only=True)

    @property
    def losses(self) -> dict[LossType, float]:
        """The names of the losses with their weights."""
        kinds = self.loss_type if isinstance(self.loss_type, tuple) else (self.loss_type,)
        return dict(zip(kinds, self.loss_weights or [1.0] * len(kinds), strict=True))

    def option_problems(self) -> Iterable[Problem]:
        """Options that cannot be combined."""
        kinds = self.loss_type if isinstance(self.loss_type, tuple) else (self.loss_type,)
        if not kinds or len({*kinds}) < len(kinds):
            yield Problem("trainer.loss_type", "names no loss" if not kinds else "names a loss twice")
        if self.loss_weights is not None and len(self.loss_weights) != len(kinds):
            what = f"has {len(self.loss_weights)} weights, but loss_type has {len(kinds)} losses"
            yield Problem("trainer.loss_weights", f"{what}; write one for each of loss_type")
        if self.label_smoothing and "robust" not in kinds:
            what = 'is used only by the loss "robust"'
            yield Problem("trainer.label_smoothing", f'{what}; set loss_type = "robust", or leave it out')

    def totals(self, step_rows: Sequence[Row]) -> Mapping[str, float]:
        """See `Objective.totals`: pairs, and trained tokens of the chosen answers."""
        return pairs.totals(step_rows)

    def loss(
        self, model: Policy, batch: Batch, totals: Mapping[str, float], prepared: Any, reference: Tensor | None
    ) -> Tensor:
        """See `Objective.loss`."""
        assert reference is not None  # noqa: S101 - for the type checker; `needs_reference` says so
        log_probs = model.log_probs(batch)
        sums = Sides.of(batch.sums(log_probs))
        ratios = sums - Sides.of(batch.sums(reference))
        counts = Sides.of(batch.counts())
        pairs.tell(batch, sums, Sides(self.beta * ratios.chosen, self.beta * ratios.rejected), totals["rows"])
        made = log_probs.new_zeros(())
        for kind, weight in self.losses.items():
            if kind == "sft":
                made = made + weight * pairs.chosen_loss(log_probs, batch, totals)
            else:
                by_pair = dpo_losses(kind, ratios, counts, self.beta, self.label_smoothing)
                made = made + weight * by_pair.sum() / totals["rows"]
        return made


def dpo_losses(kind: LossType, ratios: Sides, counts: Sides, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """The loss of each of P pairs, shape (P,).

    Args:
        kind: any loss type but `sft`, which needs no pairs.
        ratios: log-probabilities of the answers minus those of the reference.
        counts: trained tokens of the answers.
        beta: strength of the KL constraint to the reference.
        label_smoothing: for `robust`.
    """
    import torch
    from torch.nn.functional import logsigmoid

    chosen, rejected = ratios.chosen, ratios.rejected
    delta = beta * (chosen - rejected)
    match kind:
        case "sigmoid":
            return -logsigmoid(delta)
        case "hinge":  # SLiC, Zhao et al. 2023
            return torch.relu(1 - delta)
        case "ipo":  # Azar et al. 2023, of means over tokens as its authors advise
            means = ratios / counts
            return (means.chosen - means.rejected - 1 / (2 * beta)) ** 2
        case "robust":  # Chowdhury et al. 2024
            kept, flipped = -logsigmoid(delta), -logsigmoid(-delta)
            return ((1 - label_smoothing) * kept - label_smoothing * flipped) / (1 - 2 * label_smoothing)
        case "apo_zero":  # D'Oosterlinck et al. 2024, equation 7
            return 1 - torch.sigmoid(beta * chosen) + torch.sigmoid(beta * rejected)
        case "apo_down":  # the same, equation 8
            return torch.sigmoid(beta * chosen) + 1 - torch.sigmoid(delta)
    raise ValueError(kind)
