"""The best matrices of low rank for a change of weights, and how far from it they are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import define, field, frozen

if TYPE_CHECKING:
    import torch

FULL_BELOW = 512
"""A matrix with a side this short, or not four times the rank, is decomposed whole; others as `truncate` says."""


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
    """The pair of that rank, or of the matrix's shorter side, closest to a change of weights.

    Large matrices take a randomised decomposition (Halko et al. 2011) with some more directions than asked for and four
    passes over the matrix, which comes within a hundredth of the best error; the random numbers follow from `seed`.

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
    """Frobenius norm of `left @ right`, whose inner side is short, without making the product."""
    import torch

    if not left.shape[1]:
        return 0.0
    outer, inner = torch.linalg.qr(left.double()).R, torch.linalg.qr(right.T.double()).R
    return float(torch.linalg.norm(outer @ inner.T))


@frozen
class LayerError:
    """How far a layer's pair is from the change it stands for: Frobenius norms of the difference and of the change."""

    rank: int
    difference: float
    change: float

    @property
    def relative(self) -> float:
        """0 where nothing is lost, 1 where all is."""
        return self.difference / self.change if self.change else 0.0


@define
class Errors:
    """The errors of all layers, by module."""

    layers: dict[str, LayerError] = field(factory=dict)

    def add(self, module: str, rank: int, difference: float, change: float) -> None:
        """Note one layer's."""
        self.layers[module] = LayerError(rank, difference, change)

    @property
    def total(self) -> float:
        """The relative error of all changes taken as one vector."""
        change = math.fsum(one.change**2 for one in self.layers.values())
        return math.sqrt(math.fsum(one.difference**2 for one in self.layers.values()) / change) if change else 0.0

    def facts(self) -> dict[str, dict[str, float]]:
        """For `made_from.json`: module to rank, relative error, and norm of the change."""
        return {
            module: {"rank": one.rank, "error": one.relative, "norm": one.change} for module, one in self.layers.items()
        }

    def lines(self, word: str = "error") -> list[str]:
        """A table by kind of layer, such as `q_proj`: how many, error of all of them (called `word`), the worst one."""
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
