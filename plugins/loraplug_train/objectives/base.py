"""The interface of training objectives: `Objective`, and the `Batch` and `Policy` that it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from attrs import frozen

from loraplug import Problem, TokenSequence, token_sequences

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from loraplug import Run

Row = Mapping[str, Any]
"""One encoded row: column to value."""


class Batch(Protocol):
    """One micro-batch: S sequences with N labels, packed or padded.

    Attributes:
        rows: the encoded rows it was made of, in order.
        sequences: S, those of the first row first, in the order of `Objective.sequences`.
        index: int64 of shape (N,): which sequence each label is of, ascending.
        weights: float32 of shape (N,): its weight.
        labels: int64 of shape (N,): the token itself.
        metrics: what `loss` leaves here is summed over micro-batches and processes and told with the step, beside the
            loss: name to number (a float, or a Tensor of one value). So divide by the step's totals what is a mean.
    """

    rows: Sequence[Row]
    metrics: dict[str, Any]

    @property
    def sequences(self) -> int: ...  # noqa: D102 - see above
    @property
    def index(self) -> Tensor: ...  # noqa: D102
    @property
    def weights(self) -> Tensor: ...  # noqa: D102
    @property
    def labels(self) -> Tensor: ...  # noqa: D102

    def sums(self, values: Tensor) -> Tensor:
        """Values by label, shape (N,), summed by sequence: shape (S,)."""

    def counts(self) -> Tensor:
        """Labels by sequence, float32 of shape (S,)."""


class Policy(Protocol):
    """The model in training, as an objective asks it; which kernel, layout and precision is the engine's matter.

    Attributes:
        module: the model itself (a `PeftModel`, or the whole model), for what is not had from log-probabilities. A loss
            made of its outputs must not depend on how rows are spread over micro-batches.
    """

    module: Any

    def log_probs(self, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Log-probabilities (nats) of the batch's labels, float32 of shape (N,), with gradients in training.

        With smoothing e those of (1 - e) of the label and e of a token drawn evenly from the vocabulary of V:
        (1 - e) log p(label) + e / V times the sum of log p over the vocabulary.
        """

    def distributions(self, batch: Batch, *, reference: bool = False) -> Tensor:
        """Log-probabilities (nats) of every token of the vocabulary where the batch has labels.

        Made of the model's own logits, so more memory and time than `log_probs`.

        Args:
            reference: by the reference model in place of the one in training, and without gradients; an objective that
                asks so in `loss` says `keeps_reference`.

        Returns:
            float32 of shape (N, V), with gradients in training.
        """

    def score(self, sequences: Sequence[TokenSequence], *, reference: bool = False) -> Tensor:
        """Log-probabilities of each sequence's labels, summed: float32 of shape (len(sequences),), without gradients.

        For `prepare`: every process calls it with the same sequences and has all results; each computes its share, in
        micro-batches.

        Args:
            reference: by the reference model in place of the one in training.
        """


@frozen
class Objective(ABC):
    """What a training minimises. One method is enough: `loss`; the others have defaults for each schema.

    Subclasses are `@frozen`; their fields, each annotated with `Doc`, are the options, and have defaults. A trainer is
    such a class and `EngineTrainer` together:

        @frozen
        class DpoTrainer(Dpo, EngineTrainer):
            '''Direct preference optimisation.'''

            name = "dpo"

    The same object serves all steps and processes, and holds no state. A step is the rows that the schedule lays
    together; they are the same on every process. They are computed in micro-batches, on several processes, whose number
    and size change with memory and machines: so a loss is a sum over rows, divided by what `totals` says of the whole
    step, and what a row's loss depends on beyond the row is made by `prepare`.

    Import torch inside methods, never at module level.

    Attributes:
        schema: the encoded columns it takes, see `Formatter.encode`.
        needs_reference: whether `loss` is given what the reference model says: the base without its adapters, or of a
            model that is trained whole a frozen copy. It is asked once, before the first step, and remembered on disk.
        keeps_reference: whether `loss` asks the reference model itself, which then stays in memory.
        metric_names: what `loss` leaves in `batch.metrics`, always all of it; None: that is found out at every step.
    """

    schema: ClassVar[str] = "tokens"
    needs_reference: ClassVar[bool] = False
    keeps_reference: ClassVar[bool] = False
    metric_names: ClassVar[tuple[str, ...] | None] = None

    def option_problems(self) -> Iterable[Problem]:
        """Options of this objective that do not go together; asked by the trainer's `check`."""
        return ()

    def fault(self, row: Row) -> str | None:  # noqa: ARG002
        """Why this row cannot be trained on, in words; asked of every row before the first step."""
        return None

    def sequences(self, row: Row) -> Sequence[TokenSequence]:
        """What the model reads of a row.

        tokens: its documents, with their labels and weights. pairs: prompt and chosen, then prompt and rejected.
        labelled, rollouts: prompt and completion.

        Raises:
            NotImplementedError: the schema is another one.
        """
        return token_sequences(self.schema, row)

    def cost(self, row: Row) -> int:
        """Tokens computed for a row: what steps are laid out, shared out and forecast by."""
        return sum(len(one.input_ids) for one in self.sequences(row))

    def totals(self, step_rows: Sequence[Row]) -> Mapping[str, float]:
        """What the step's sums are divided by, name to number; of two lists of rows together it is the sum of theirs.

        tokens: `tokens`, the labels that count. Otherwise: `rows`.
        """
        if self.schema == "tokens":
            return {"tokens": float(sum(one.label_count for row in step_rows for one in self.sequences(row)))}
        return {"rows": float(len(step_rows))}

    def reference_model(self, run: Run) -> PreTrainedModel | None:  # noqa: ARG002
        """Another model to compare with than the base, loaded; it is frozen by the engine. None: the base.

        Asked once, before training, with `needs_reference` or `keeps_reference`.
        """
        return None

    def prepare(self, step_rows: Sequence[Row], model: Policy) -> Any:  # noqa: ARG002
        """What spans the step, made before its first micro-batch, on every process alike (`model.score` is)."""
        return None

    @abstractmethod
    def loss(
        self,
        model: Policy,
        batch: Batch,
        totals: Mapping[str, float],
        prepared: Any,
        reference: Tensor | None,
    ) -> Tensor:
        """The loss of a micro-batch, divided by the step's totals: those of all micro-batches add up to the step's.

        Args:
            model: call `model.log_probs(batch)`, once.
            batch: rows and labels.
            totals: of the whole step; of the whole set in validation. At least 1.
            prepared: what `prepare` gave.
            reference: with `needs_reference` the reference model's log-probabilities of the batch's labels, float32 of
                shape (N,), as `model.log_probs` has them.

        Returns:
            A scalar. Metrics go into the batch: `batch.metrics["accuracy"] = correct.sum() / totals["rows"]`.
        """
