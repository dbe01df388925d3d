"""The course of the learning rate `my-part`."""

from __future__ import annotations

from typing import Annotated

from attrs import field, frozen, validators

from loraplug import Doc, Scheduler


@frozen
class MyPart(Scheduler):
    """Lowers the rate in steps: after each stage of the training it is multiplied by `gamma`."""

    name = "my-part"
    stages: Annotated[int, Doc("number of stages, all of the same length")] = field(
        default=3, validator=validators.ge(1)
    )
    gamma: Annotated[float, Doc("the factor between one stage and the next")] = field(
        default=0.1, validator=[validators.gt(0), validators.le(1)]
    )

    def factor(self, step: int, steps: int, warmup: int) -> float:
        """Rising in the warmup, then by whole stages."""
        if step < warmup:
            return step / warmup
        return float(self.gamma ** (self.stages * step // (steps + 1)))
