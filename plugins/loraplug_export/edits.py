"""What an adapter does to each weight of its base, in fp32 and a few rows at a time.

LoRA: W + s B A with s = alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv:2106.09685, arXiv:2312.03732).
DoRA: m (W + s B A) / |W + s B A|, the norm taken over the inputs of each output (arXiv:2402.09353).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve, frozen

if TYPE_CHECKING:
    import torch


@frozen
class LowRank:
    """One LoRA pair.

    Attributes:
        a: fp32, (r, inputs).
        b: fp32, (outputs, r).
        magnitude: DoRA's m, fp32, (outputs,).
        transposed: the weight is stored as (inputs, outputs), as those of embeddings and of `Conv1D` are.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    magnitude: torch.Tensor | None = None
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight it belongs to, as it is stored."""
        outputs, inputs = self.b.shape[0], self.a.shape[1]
        return (inputs, outputs) if self.transposed else (outputs, inputs)

    @property
    def by_rows(self) -> bool:
        """Whether a row of the result needs no other rows; not so for DoRA's norms where inputs are rows."""
        return self.magnitude is None or not self.transposed

    def apply(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """The new values of `rows` (fp32), which begin at row `first` of the weight."""
        import torch

        last = first + rows.shape[0]
        left, right = (self.a[:, first:last].T, self.b.T) if self.transposed else (self.b[first:last], self.a)
        changed = torch.addmm(rows, left, right, alpha=self.scale)
        if self.magnitude is None:
            return changed
        if self.transposed:
            return changed * (self.magnitude / torch.linalg.norm(changed, dim=0))
        return changed * (self.magnitude[first:last] / torch.linalg.norm(changed, dim=1)).unsqueeze(1)

    def added(self, x: torch.Tensor) -> torch.Tensor:
        """What plain LoRA adds to a linear layer's output: s B (A x), for `x` of shape (..., inputs)."""
        return (x @ self.a.T @ self.b.T) * self.scale


@frozen
class Edit:
    """What happens to one parameter: it is replaced, then changed by a low-rank pair or a vector.

    Attributes:
        replacement: the parameter as saved with the adapter (`modules_to_save`, trained biases, resized embeddings).
        low_rank: the LoRA pair on it.
        added: a vector to add to a bias, fp32.
    """

    replacement: torch.Tensor | None = None
    low_rank: LowRank | None = None
    added: torch.Tensor | None = None

    @property
    def by_rows(self) -> bool:
        """Whether the parameter can be worked on a few rows at a time."""
        return self.low_rank is None or self.low_rank.by_rows

    def without_low_rank(self) -> Edit:
        """This edit as a layer tied to the parameter, but without an adapter of its own, sees it."""
        return evolve(self, low_rank=None, added=None)

    def apply(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """The new values of `rows` (fp32, already the replacement's where there is one)."""
        if self.low_rank is not None:
            rows = self.low_rank.apply(rows, first)
        if self.added is not None:
            rows = rows + self.added[first : first + rows.shape[0]]
        return rows

    def same_as(self, other: Edit | None) -> bool:
        """Whether both only replace, by equal values."""
        if other is None or self.replacement is None or other.replacement is None:
            return False
        plain = not any((self.low_rank, other.low_rank, self.added is not None, other.added is not None))
        return (
            plain
            and self.replacement.shape == other.replacement.shape
            and bool((self.replacement == other.replacement).all())
        )
