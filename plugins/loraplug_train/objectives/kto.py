"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024), as trl's `KTOTrainer` computes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from attrs import field, frozen, validators

from loraplug import Doc, Problem, TokenSequence, token_sequences
from loraplug_train.objectives.base import Batch, Objective, Policy, Row

if TYPE_CHECKING:
    from torch import Tensor


@frozen
class Kto(Objective):
    """Kahneman-Tversky optimisation: single answers, each labelled desirable or not, relative to a reference model."""

    schema: ClassVar[str] = "labelled"
    needs_reference: ClassVar[bool] = True

    loss_type: Annotated[
        Literal["kto", "apo_zero_unpaired"], Doc("the loss, by its name in trl; apo_zero_unpaired needs no KL estimate")
    ] = field(default="kto", kw_only=True)
    beta: Annotated[float, Doc("strength of the KL constraint to the reference")] = field(
        default=0.1, validator=validators.gt(0), kw_only=True
    )
    desirable_weight: Annotated[float, Doc("weight of the loss of desirable answers")] = field(
        default=1.0, validator=validators.ge(0), kw_only=True
    )
    undesirable_weight: Annotated[float, Doc("weight of the loss of undesirable answers")] = field(
        default=1.0, validator=validators.ge(0), kw_only=True
    )

    def option_problems(self) -> Iterable[Problem]:
        """Options that cannot be combined."""
        if not self.desirable_weight and not self.undesirable_weight:
            yield Problem("trainer.desirable_weight", "and undesirable_weight are 0, so nothing would be trained")

    def prepare(self, step_rows: Sequence[Row], model: Policy) -> Tensor | None:
        """Estimate the KL divergence from the reference: the mean over the step's prompts, each with another row's
        answer.

        Each prompt is paired with the answer of the row before it in the step, the first with that of the last. At
        least 0, and 0 for a step of one row.
        """
        if self.loss_type != "kto":
            return None
        partners = mismatched(step_rows)
        if not partners:
            import torch

            return torch.zeros(())
        apart = model.score(partners) - model.score(partners, reference=True)
        return apart.mean().clamp(min=0)

    def loss(
        self, model: Policy, batch: Batch, totals: Mapping[str, float], prepared: Any, reference: Tensor | None
    ) -> Tensor:
        """See `Objective.loss`."""
        import torch

        assert reference is not None  # noqa: S101 - for the type checker; `needs_reference` says so
        sums = batch.sums(model.log_probs(batch))
        ratios = sums - batch.sums(reference)
        wanted = torch.tensor([bool(row["label"]) for row in batch.rows], device=ratios.device)
        divergence = None if prepared is None else prepared.to(ratios)
        losses = kto_losses(ratios, wanted, self.beta, divergence)
        factors = torch.where(wanted, self.desirable_weight, self.undesirable_weight)
        rows = totals["rows"]
        for name, which in (("chosen", wanted), ("rejected", ~wanted)):
            count = max(totals[name], 1.0)
            batch.metrics[f"rewards/{name}"] = self.beta * ratios.detach()[which].sum() / count
            batch.metrics[f"logps/{name}"] = sums.detach()[which].sum() / count
        batch.metrics["kl"] = 0.0 if divergence is None else divergence * len(batch.rows) / rows
        return (factors * losses).sum() / rows

    def totals(self, step_rows: Sequence[Row]) -> Mapping[str, float]:
        """See `Objective.totals`: rows, desirable rows and undesirable rows."""
        wanted = sum(bool(row["label"]) for row in step_rows)
        rows = len(step_rows)
        return {"rows": float(rows), "chosen": float(wanted), "rejected": float(rows - wanted)}


def mismatched(step_rows: Sequence[Row]) -> list[TokenSequence]:
    """Each prompt of a step with the answer of the row before it, the first one with that of the last.

    None for a single row.
    """
    if len(step_rows) < 2:
        return []
    before = [step_rows[-1], *step_rows[:-1]]
    answer = ("completion_ids", "completion_labels")
    return [
        token_sequences("labelled", {"prompt_ids": row["prompt_ids"], **{name: other[name] for name in answer}})[0]
        for row, other in zip(step_rows, before, strict=True)
    ]


def kto_losses(ratios: Tensor, wanted: Tensor, beta: float, divergence: Tensor | None) -> Tensor:
    """The unweighted loss of each of R rows, shape (R,).

    Args:
        ratios: log-probability of the answer minus that of the reference, shape (R,).
        wanted: bool of shape (R,).
        beta: strength of the KL constraint to the reference.
        divergence: KL estimate of model and reference, a scalar; None for `apo_zero_unpaired`, which has none.
    """
    import torch

    from_it = ratios if divergence is None else ratios - divergence
    return torch.where(wanted, 1 - torch.sigmoid(beta * from_it), torch.sigmoid(beta * from_it))
