"""Odds ratio preference optimisation (Hong et al. 2024), as trl's experimental `ORPOTrainer` computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from attrs import evolve, field, frozen, validators

from loraplug import IGNORED, Doc, TokenSequence
from loraplug_train.objectives import pairs
from loraplug_train.objectives.base import Batch, Objective, Policy, Row
from loraplug_train.objectives.pairs import Sides

if TYPE_CHECKING:
    from torch import Tensor

_BRANCH = -0.6931471805599453  # -ln 2; the accurate formula is a different one on each side


@frozen
class Orpo(Objective):
    """Odds ratio preference optimisation: no reference model; trains on the whole chosen conversation, prompt
    included.
    """

    schema: ClassVar[str] = "pairs"

    beta: Annotated[float, Doc("weight of the odds-ratio term; lambda in the paper")] = field(
        default=0.1, validator=validators.gt(0), kw_only=True
    )

    def sequences(self, row: Row) -> Sequence[TokenSequence]:
        """See `Objective.sequences`: every token of the chosen side has a label, those of its prompt the weight 0."""
        chosen, rejected = super().sequences(row)
        answer = [float(label != IGNORED) for label in chosen.labels]
        return evolve(chosen, labels=chosen.input_ids, weights=answer), rejected

    def totals(self, step_rows: Sequence[Row]) -> Mapping[str, float]:
        """See `Objective.totals`: pairs, and tokens of the chosen sides that are predicted."""
        tokens = sum(len(row["prompt_ids"]) + len(row["chosen_ids"]) - 1 for row in step_rows)
        return {"rows": float(len(step_rows)), "chosen_tokens": float(tokens)}

    def loss(
        self, model: Policy, batch: Batch, totals: Mapping[str, float], prepared: Any, reference: Tensor | None
    ) -> Tensor:
        """See `Objective.loss`."""
        log_probs = model.log_probs(batch)
        means = Sides.of(batch.sums(log_probs * batch.weights)) / Sides.of(batch.sums(batch.weights))
        pairs.tell(batch, means, Sides(self.beta * means.chosen, self.beta * means.rejected), totals["rows"])
        odds = orpo_losses(means, self.beta).sum() / totals["rows"]
        return odds + pairs.chosen_loss(log_probs, batch, totals)


def orpo_losses(means: Sides, beta: float) -> Tensor:
    """The odds-ratio term of the loss of each of P pairs, shape (P,).

    Args:
        means: log-probability of the answers, a mean over their tokens.
        beta: its weight.
    """
    from torch.nn.functional import logsigmoid

    log_odds = means.chosen - means.rejected - (_log1mexp(means.chosen) - _log1mexp(means.rejected))
    return -beta * logsigmoid(log_odds)


def _log1mexp(values: Tensor) -> Tensor:
    """log(1 - exp(values)) of values below 0."""
    import torch

    return torch.where(values < _BRANCH, torch.log1p(-torch.exp(values)), torch.log(-torch.expm1(values)))
