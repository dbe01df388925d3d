"""Low-rank approximations of weight changes, and their errors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import define, field, frozen

if TYPE_CHECKING:
    import torch

FULL_BELOW = 512
"""A matrix with a side this short, or shorter than four times the rank, gets a full SVD; others see `truncate`."""


@frozen(eq=False)
class Pair:
    """A LoRA pair of scale 1: the change of the weight is `b @ a`.

    Attributes:
        a: (r, inputs), fp32.
        b: (outputs, r), fp32.
    """

    a: torch.Tensor
    b: torch.Tensor

    @property
    def rank(self) -> int:
        """Rows of `a`."""
        return int(self.a.shape[0])


def truncate(change: torch.Tensor, rank: int, seed: int = 0) -> Pair:
    """The pair of that rank (at most the shorter side) that approximates a change of weights best.

    Large matrices take a randomised decomposition (Halko et al. 2011) with oversampling and four power iterations,
    which is within 1 % of the best error; random numbers are seeded by `seed`.

    Args:
        change: (outputs, inputs), fp32.
    """
    import torch

    short = min(change.shape)
    rank = min(rank, short)
    if short <= max(FULL_BELOW, 4 * rank):
        u, s, vh = torch.linalg.svd(change, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            u, s, v = torch.svd_lowrank(change, q=rank + max(16, rank // 2), niter=4)
        vh = v.T
    root = s[:rank].sqrt()
    return Pair(a=(root[:, None] * vh[:rank]).contiguous(), b=(u[:, :rank] * root).contiguous())


def product_norm(left: torch.Tensor, right: torch.Tensor) -> float:
    """Frobenius norm of `left @ right`, with a short inner dimension, without computing the product."""
    import torch

    if not left.shape[1]:
        return 0.0
    outer, inner = torch.linalg.qr(left.double()).R, torch.linalg.qr(right.T.double()).R
    return float(torch.linalg.norm(outer @ inner.T))


@frozen
class LayerError:
    """The error of a layer's pair: Frobenius norms of the difference and of the exact change."""

    rank: int
    difference: float
    change: float

    @property
    def relative(self) -> float:
        """0: exact; 1: everything is lost."""
        return self.difference / self.change if self.change else 0.0


@define
class Errors:
    """The errors of all layers, by module."""

    layers: dict[str, LayerError] = field(factory=dict)

    def add(self, module: str, rank: int, difference: float, change: float) -> None:
        """Record the error of a layer."""
        self.layers[module] = LayerError(rank, difference, change)

    @property
    def total(self) -> float:
        """The relative error of all changes taken as one vector."""
        change = math.fsum(one.change**2 for one in self.layers.values())
        return math.sqrt(math.fsum(one.difference**2 for one in self.layers.values()) / change) if change else 0.0

    def facts(self) -> dict[str, dict[str, float]]:
        """For `Provenance.derived`: module to rank, relative error, and norm of the change."""
        return {
            module: {"rank": one.rank, "error": one.relative, "norm": one.change} for module, one in self.layers.items()
        }

    def lines(self, word: str = "error") -> list[str]:
        """A table by kind of layer, such as `q_proj`: count, total error (labelled `word`), the worst layer."""
        kinds: Mapping[str, dict[str, LayerError]] = defaultdict(dict)
        for module, one in self.layers.items():
            kinds[module.rpartition(".")[2]][module] = one
        rows = []
        for kind, layers in kinds.items():
            worst = max(layers, key=lambda module: layers[module].relative)
            rows.append(
                f"  {kind:<12} {len(layers):>4} layers  {word} {Errors(layers).total:.4f}  "
                f"worst {layers[worst].relative:.4f} ({worst})"
            )
        return rows
