"""Group relative policy optimisation (Shao et al. 2024) on answers drawn before, as trl's `GRPOTrainer` computes it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from attrs import field, frozen, validators

from loraplug import Doc, Problem
from loraplug_train.objectives.base import Batch, Objective, Policy, Row

if TYPE_CHECKING:
    from torch import Tensor

_ABOVE_ONE = 1e-3  # nats by which rounding may bring a probability above 1


@frozen
class Grpo(Objective):
    """Group relative policy optimisation: answers become likelier by how much better they are than their group."""

    schema: ClassVar[str] = "rollouts"

    loss_type: Annotated[
        Literal["dapo", "grpo", "dr_grpo"],
        Doc(
            "what the losses of tokens are divided by. dapo: all tokens of the step; grpo: the tokens of their answer, "
            "then the answers; dr_grpo: max_completion_length, then the answers"
        ),
    ] = field(default="dapo", kw_only=True)
    epsilon: Annotated[float, Doc("a token's ratio to what it was counts down to 1 less this")] = field(
        default=0.2, validator=[validators.gt(0), validators.lt(1)], kw_only=True
    )
    epsilon_high: Annotated[float | None, Doc("and up to 1 and this; as epsilon where not set")] = field(
        default=None, validator=validators.optional(validators.gt(0)), kw_only=True
    )
    importance_sampling_level: Annotated[
        Literal["token", "sequence"], Doc("the ratio of each token, or the geometric mean of an answer's ratios (GSPO)")
    ] = field(default="token", kw_only=True)
    beta: Annotated[float, Doc("coefficient of the divergence (KL) from the reference; 0 needs no reference")] = field(
        default=0.0, validator=validators.ge(0), kw_only=True
    )
    use_bias_correction_kl: Annotated[bool, Doc("weigh the divergence by the ratios, too")] = field(
        default=True, kw_only=True
    )
    max_completion_length: Annotated[int, Doc("of dr_grpo: what the losses of an answer's tokens are divided by")] = (
        field(default=512, validator=validators.ge(1), kw_only=True)
    )

    @property
    def needs_reference(self) -> bool:  # type: ignore[override] # here it is a matter of an option
        """Where the divergence counts."""
        return self.beta > 0

    def option_problems(self) -> Iterable[Problem]:
        """Options that do not go together."""
        if self.max_completion_length != 512 and self.loss_type != "dr_grpo":
            what = 'is heeded by the loss "dr_grpo" alone; leave it out'
            yield Problem("trainer.max_completion_length", what)

    def fault(self, row: Row) -> str | None:
        """See `Objective.fault`."""
        tokens, known = len(row["completion_ids"]), row["old_log_probs"]
        if not row["prompt_ids"] or not tokens:
            return "has no prompt" if tokens else "has no completion"
        if len(known) != tokens:
            return f"has {len(known)} old_log_probs for {tokens} tokens of its completion"
        if not all(value is not None and -math.inf < value < _ABOVE_ONE for value in known):
            return "has old_log_probs that are no logarithms of probabilities"
        return None if math.isfinite(row["advantage"]) else f"has the advantage {row['advantage']}"

    def totals(self, step_rows: Sequence[Row]) -> Mapping[str, float]:
        """See `Objective.totals`: answers, and their tokens."""
        tokens = sum(len(row["completion_ids"]) for row in step_rows)
        return {"rows": float(len(step_rows)), "tokens": float(tokens)}

    def loss(
        self, model: Policy, batch: Batch, totals: Mapping[str, float], prepared: Any, reference: Tensor | None
    ) -> Tensor:
        """See `Objective.loss`."""
        import torch

        log_probs, index, counts = model.log_probs(batch), batch.index, batch.counts()
        old = torch.tensor([value for row in batch.rows for value in row["old_log_probs"]], device=log_probs.device)
        advantages = torch.tensor([float(row["advantage"]) for row in batch.rows], device=log_probs.device)[index]
        log_ratios = log_probs - old
        if self.importance_sampling_level == "sequence":
            log_ratios = (batch.sums(log_ratios) / counts)[index]
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        ratios = log_ratios.exp()
        losses = -torch.min(ratios * advantages, ratios.clamp(1 - self.epsilon, 1 + high) * advantages)
        self._tell(batch, ratios.detach(), advantages, high, totals["tokens"])
        if reference is not None:
            apart = reference - log_probs
            divergence = apart.exp() - apart - 1
            if self.use_bias_correction_kl:
                divergence = divergence * ratios
            batch.metrics["kl"] = divergence.detach().sum() / totals["tokens"]
            losses = losses + self.beta * divergence
        if self.loss_type == "dapo":
            return losses.sum() / totals["tokens"]
        if self.loss_type == "grpo":
            return (batch.sums(losses) / counts).sum() / totals["rows"]
        return losses.sum() / (totals["rows"] * self.max_completion_length)

    def _tell(self, batch: Batch, ratios: Tensor, advantages: Tensor, high: float, tokens: float) -> None:
        """Shares of the tokens whose ratio is held down there and up there, by trl's names."""
        low_clipped = (ratios < 1 - self.epsilon) & (advantages < 0)
        high_clipped = (ratios > 1 + high) & (advantages > 0)
        for name, which in (("low", low_clipped), ("high", high_clipped), ("region", low_clipped | high_clipped)):
            batch.metrics[f"clip_ratio/{name}_mean"] = which.float().sum() / tokens
