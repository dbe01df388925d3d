"""The built-in optimizers and courses of the learning rate that have options; others are transformers', by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen, validators

from loraplug import Doc, Optimizer, Scheduler

if TYPE_CHECKING:
    from torch.optim import Optimizer as TorchOptimizer


_FLOOR = Doc("share of the peak that is left at the end", aka=("min_lr_rate", "min_lr_ratio"))


@frozen
class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019) as torch computes it."""

    name = "adamw_torch"

    betas: Annotated[
        tuple[float, float], Doc("decay of the means of gradient and squared gradient", aka=("adam_betas",))
    ] = field(
        default=(0.9, 0.999), validator=validators.deep_iterable(validators.and_(validators.ge(0), validators.lt(1)))
    )
    eps: Annotated[float, Doc("added to the root of the squared gradient's mean", aka=("adam_epsilon",))] = field(
        default=1e-8, validator=validators.gt(0)
    )

    def make(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> TorchOptimizer:
        """See `Optimizer.make`."""
        import torch

        return torch.optim.AdamW(list(map(dict, groups)), lr=learning_rate, betas=self.betas, eps=self.eps)


def _rising(step: int, warmup: int) -> float:
    return step / max(1, warmup)


@frozen
class Cosine(Scheduler):
    """Half a cosine from the peak down, behind the warmup."""

    name = "cosine"

    floor: Annotated[float, _FLOOR] = field(default=0.0, validator=[validators.ge(0), validators.le(1)])

    def factor(self, step: int, steps: int, warmup: int) -> float:
        """See `Scheduler.factor`."""
        if step < warmup:
            return _rising(step, warmup)
        done = (step - warmup) / max(1, steps - warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@frozen
class WarmupStableDecay(Scheduler):
    """Warmup, the peak for most of the training, and a straight way down at its end (Hu et al. 2024)."""

    name = "wsd"

    decay_ratio: Annotated[float, Doc("share of the steps in which the rate falls")] = field(
        default=0.2, validator=[validators.ge(0), validators.le(1)]
    )
    floor: Annotated[float, _FLOOR] = field(default=0.0, validator=[validators.ge(0), validators.le(1)])

    def factor(self, step: int, steps: int, warmup: int) -> float:
        """See `Scheduler.factor`."""
        if step < warmup:
            return _rising(step, warmup)
        falling = min(steps - warmup, round(self.decay_ratio * steps))
        left = min(1.0, (steps - step) / falling) if falling else 1.0
        return self.floor + (1 - self.floor) * max(0.0, left)
