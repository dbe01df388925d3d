"""A trainer for loraplug: knowledge distillation, in which a model learns what a second one says of every token.

Checkpoints, exact resume, micro-batches and several processes are the engine's; this file is a loss and its teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen, validators

from loraplug import Doc, InputError, ModelLoader, Placement, Problem, Run, Trainer, hookimpl
from loraplug_train import Batch, EngineTrainer, Objective, Policy

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

LORAPLUG_API = "2.0"


@frozen
class Distillation(Objective):
    """Divergence (nats) of the model from its teacher over the whole vocabulary, a mean over trained tokens."""

    keeps_reference = True
    metric_names = ("divergence",)

    teacher: Annotated[ModelLoader, Doc("the model that is learnt from, a table like [model]")] = field(kw_only=True)
    temperature: Annotated[float, Doc("both distributions are flattened by it; 1: as they are")] = field(
        default=1.0, validator=validators.gt(0), kw_only=True
    )
    alpha: Annotated[float, Doc("weight of the teacher; the rest is cross-entropy with the row's own tokens")] = field(
        default=1.0, validator=[validators.ge(0), validators.le(1)], kw_only=True
    )

    def reference_model(self, run: Run) -> PreTrainedModel:
        """The teacher."""
        return self.teacher.load_model(run=run, placement=Placement(role="reference"))

    def loss(
        self, model: Policy, batch: Batch, totals: Mapping[str, float], prepared: Any, reference: Tensor | None
    ) -> Tensor:
        """Hinton et al. 2015: the divergence at a temperature, times its square, beside the cross-entropy."""
        own, taught = model.distributions(batch), model.distributions(batch, reference=True)
        if own.shape != taught.shape:
            what = f"has {taught.shape[1]} tokens where the model has {own.shape[1]}"
            raise InputError(what, where="trainer.teacher", todo="take a teacher with the model's vocabulary")
        said = (taught / self.temperature).log_softmax(-1)
        apart = said.exp() * (said - (own / self.temperature).log_softmax(-1))
        divergence = apart.sum(-1) * self.temperature**2
        entropy = -own.gather(-1, batch.labels[:, None])[:, 0]
        batch.metrics["divergence"] = (divergence.detach() * batch.weights).sum() / totals["tokens"]
        mixed = self.alpha * divergence + (1 - self.alpha) * entropy
        return (mixed * batch.weights).sum() / totals["tokens"]


@frozen
class DistillTrainer(Distillation, EngineTrainer):
    """Knowledge distillation: the model learns the distribution of a second one over each next token."""

    name = "distill"

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """A teacher of another vocabulary, by the files of both."""
        yield from EngineTrainer.preflight(self, run, recipe)
        student, teacher = recipe.model.facts(run=run), self.teacher.facts(run=run)
        if student and teacher and student.vocabulary != teacher.vocabulary:
            what = f"knows {teacher.vocabulary} tokens, and the model {student.vocabulary}"
            yield Problem("trainer.teacher", f"{what}; take a teacher with the model's tokenizer")


@hookimpl
def loraplug_trainers() -> Sequence[type[Trainer]]:
    """Bring `distill`."""
    return [DistillTrainer]
