"""The optimizer `my-part`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen, validators

from loraplug import Doc, Optimizer

if TYPE_CHECKING:
    from torch.optim import Optimizer as TorchOptimizer


@frozen
class MyPart(Optimizer):
    """Gradient descent with momentum, whose gradient is taken where the momentum leads (Nesterov)."""

    name = "my-part"
    momentum: Annotated[float, Doc("share of the last step that is taken again")] = field(
        default=0.9, validator=[validators.gt(0), validators.lt(1)]
    )

    def make(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> TorchOptimizer:
        """torch's own, with its state in tensors and numbers."""
        import torch

        return torch.optim.SGD(list(map(dict, groups)), lr=learning_rate, momentum=self.momentum, nesterov=True)
