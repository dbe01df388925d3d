"""The course of the learning rate `my-part`."""

from __future__ import annotations

from typing import Annotated

from attrs import field, frozen, validators

from loraplug import Doc, Scheduler


@frozen
class MyPart(Scheduler):
    """The peak, and less of it with every stage of the training: a stair down."""

    name = "my-part"
    stages: Annotated[int, Doc("how many stairs there are")] = field(default=3, validator=validators.ge(1))
    gamma: Annotated[float, Doc("what the rate is multiplied by at each")] = field(
        default=0.1, validator=[validators.gt(0), validators.le(1)]
    )

    def factor(self, step: int, steps: int, warmup: int) -> float:
        """Rising in the warmup, then by whole stages."""
        if step < warmup:
            return step / warmup
        return float(self.gamma ** (self.stages * step // (steps + 1)))
