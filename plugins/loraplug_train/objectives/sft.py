"""Supervised fine-tuning: cross-entropy of the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import field, frozen, validators

from loraplug import Doc
from loraplug_train.objectives.base import Batch, Objective, Policy

if TYPE_CHECKING:
    from torch import Tensor


@frozen
class SupervisedFineTuning(Objective):
    """Cross-entropy in nats times the token's weight, summed over a step and divided by the number of its labels."""

    metric_names = ()

    loss_type: Annotated[
        Literal["nll", "dft"],
        Doc("nll: cross-entropy; dft: cross-entropy times the token's detached probability (Wu et al. 2025)"),
    ] = "nll"
    label_smoothing: Annotated[float, Doc("probability mass that is spread evenly over the vocabulary")] = field(
        default=0.0, validator=[validators.ge(0), validators.lt(1)]
    )

    def loss(
        self,
        model: Policy,
        batch: Batch,
        totals: Mapping[str, float],
        prepared: Any,  # noqa: ARG002 - nothing spans a step
        reference: Tensor | None,  # noqa: ARG002 - nothing is compared
    ) -> Tensor:
        """See `Objective.loss`."""
        log_probs = model.log_probs(batch, self.label_smoothing if model.module.training else 0.0)
        losses = -log_probs * batch.weights
        if self.loss_type == "dft" and model.module.training:
            losses = losses * log_probs.detach().exp()
        return losses.sum() / totals["tokens"]
