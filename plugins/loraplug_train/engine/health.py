"""Notices a sick training: a loss that is no number or runs away, steps that change nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from attrs import define

from loraplug import LoraplugError, Run

if TYPE_CHECKING:
    import torch

_SLOWER = 'try a smaller trainer.learning_rate, a longer warmup, or model.dtype = "float32"'
_MOST_ZERO_GRADIENTS = 5  # steps without any gradient before a run is given up
_KEEP = 0.9  # of the moving average of the loss, a step
_SEVERAL = 20  # steps until the moving average says something


@define
class Health:
    """Looks at every step's figures.

    Attributes:
        vocabulary: the number of tokens the model chooses from.
        likelihood: whether the loss is a mean cross-entropy of tokens, which is held to that of a uniform guess.
    """

    run: Run
    vocabulary: int
    likelihood: bool = True
    average: float | None = None
    best: float = math.inf
    seen: int = 0
    zero_gradients: int = 0
    warned: bool = False

    def gradient(self, step: int, loss: float, rows: Sequence[str]) -> None:
        """Before the optimizer takes the step, so that a loss that is no number never reaches the adapter."""
        if not math.isfinite(loss):
            raise LoraplugError(f"the loss is {loss}", where=_where(step, rows), todo=_SLOWER)

    def step(self, step: int, loss: float, grad_norm: float, learning_rate: float, rows: Sequence[str]) -> None:
        """After a step.

        Raises:
            LoraplugError: the gradient is no number or was zero for several steps; the loss is above that of guessing.
        """
        if not math.isfinite(grad_norm):
            raise LoraplugError(f"the norm of the gradient is {grad_norm}", where=_where(step, rows), todo=_SLOWER)
        self.seen += 1
        self.average = loss if self.average is None else _KEEP * self.average + (1 - _KEEP) * loss
        self.zero_gradients = self.zero_gradients + 1 if grad_norm == 0 and learning_rate > 0 else 0
        uniform = math.log(self.vocabulary)
        settled = self.seen >= _SEVERAL or self.zero_gradients == _MOST_ZERO_GRADIENTS
        if self.likelihood and settled and self.average > uniform + 1 and self.best < uniform + 0.5:
            what = f"the loss ran away: {self.average:.2f} on average, guessing would be {uniform:.2f}"
            raise LoraplugError(what, where=_where(step, rows), todo=_SLOWER)
        if self.zero_gradients == _MOST_ZERO_GRADIENTS:
            raise LoraplugError(
                f"the gradient was zero for {_MOST_ZERO_GRADIENTS} steps, at a loss of {loss:.2f}: nothing is learned",
                where=_where(step, rows),
                todo="if the loss jumped, try a smaller trainer.learning_rate; else see `loraplug preview` for the "
                "trained tokens, and trainer.lora.target_modules",
            )
        if settled and self.average > 1.5 * self.best + 0.5 and not self.warned:
            self.warned = True
            self.run.warn(
                f"the loss rises: {self.average:.2f} on average at step {step}, it was {self.best:.2f} "
                f"(rows {', '.join(rows)}); {_SLOWER}"
            )
        self.best = min(self.best, self.average)


def fingerprint(values: Iterable[torch.Tensor]) -> bytes:
    """A hash of all values: whether training changed any is told without a second copy of them."""
    import torch

    hashed = sha256()
    for value in values:
        hashed.update(value.detach().contiguous().flatten().view(torch.uint8).cpu().numpy())
    return hashed.digest()


def moved(run: Run, changed: bool, before: float | None, after: float | None) -> None:
    """Warn when a finished training did nothing.

    Args:
        changed: whether any trained value is another than at the beginning.
        before, after: validation loss, where there is one.
    """
    if not changed:
        raise LoraplugError(
            "the adapter is what it was before training",
            where="trainer",
            todo="raise learning_rate; see `loraplug preview` for the trained tokens",
        )
    if before is not None and after is not None and abs(after - before) < 1e-4 * before:
        run.warn(f"training changed the validation loss by only {after - before:+.1e}; raise trainer.learning_rate")


def _where(step: int, rows: Sequence[str]) -> str:
    return f"trainer, step {step}, rows {', '.join(rows)}"
