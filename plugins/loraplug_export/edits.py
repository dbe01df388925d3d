"""What an adapter does to each weight of its base, in fp32 and a few rows at a time.

LoRA: W + s B A with s = alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv:2106.09685, arXiv:2312.03732).
DoRA: m (W + s B A) / |W + s B A|, the norm taken over the inputs of each output (arXiv:2402.09353).

`Edit` and `LowRank` know where their tensors lie; `load` reads them when the weight's turn has come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve, frozen

from loraplug_export.tensors import Tensor

if TYPE_CHECKING:
    import torch


@frozen
class LowRank:
    """One LoRA pair.

    Attributes:
        a: (r, inputs).
        b: (outputs, r).
        magnitude: DoRA's m, (outputs,).
        bias: of B, (outputs,); times `scale` it belongs to the layer's bias.
        transposed: the weight is stored as (inputs, outputs), as those of embeddings and of `Conv1D` are.
    """

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None = None
    bias: Tensor | None = None
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight it belongs to, as it is stored."""
        outputs, inputs = self.b.shape[0], self.a.shape[1]
        return (inputs, outputs) if self.transposed else (outputs, inputs)


@frozen
class Rows:
    """Rows of an embedding or an output layer that an adapter has values of its own for.

    Attributes:
        numbers: token ids, in the order of the values; they may go on behind the last row of the base.
        values: (rows, hidden size).
    """

    numbers: tuple[int, ...]
    values: Tensor

    def put_on(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """`rows`, which begin at row `first`, with those of them that the adapter has."""
        inside = [(at, number - first) for at, number in enumerate(self.numbers) if 0 <= number - first < len(rows)]
        if not inside:
            return rows
        import torch

        made, values = rows.clone(), self.values.read().to(rows.dtype)
        made[torch.tensor([number for _, number in inside])] = values[torch.tensor([at for at, _ in inside])]
        return made

    def grown(self, count: int) -> int:
        """The number of rows of a weight that has `count` in the base."""
        return max(count, 1 + max(self.numbers))


@frozen
class Edit:
    """What happens to one parameter: it is replaced, then changed by a low-rank pair, or a vector is added.

    Attributes:
        replacement: the parameter as saved with the adapter (`modules_to_save`, trained biases, resized embeddings).
        low_rank: the LoRA pair on it.
        added: the pair whose bias belongs to this parameter.
        rows: rows that are replaced, or are there in addition.
    """

    replacement: Tensor | None = None
    low_rank: LowRank | None = None
    added: LowRank | None = None
    rows: Rows | None = None

    @property
    def replaces(self) -> bool:
        """Whether values of the base go, all or some rows of them."""
        return self.replacement is not None or self.rows is not None

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Of the result, for a parameter of shape `stored` in the base."""
        if self.replacement is not None:
            return tuple(self.replacement.shape)
        return (self.rows.grown(stored[0]), *stored[1:]) if self.rows is not None else stored

    @property
    def by_rows(self) -> bool:
        """Whether a row of the result needs no other rows; not so for DoRA's norms where inputs are rows."""
        return self.low_rank is None or self.low_rank.magnitude is None or not self.low_rank.transposed

    def without_low_rank(self) -> Edit:
        """This edit as a layer tied to the parameter, but without an adapter of its own, sees it."""
        return evolve(self, low_rank=None, added=None)

    def same_as(self, other: Edit | None) -> bool:
        """Whether both only replace, by equal values."""
        if other is None or self.replacement is None or other.replacement is None:
            return False
        if self.low_rank or self.added or other.low_rank or other.added:
            return False
        if self.replacement.shape != other.replacement.shape:
            return False
        return bool((self.replacement.read() == other.replacement.read()).all())

    def load(self) -> Loaded:
        """Read the adapter's tensors that this edit needs."""
        pair, added = self.low_rank, self.added
        return Loaded(
            self,
            a=pair.a.read().float() if pair else None,
            b=pair.b.read().float() if pair else None,
            magnitude=pair.magnitude.read().float() if pair and pair.magnitude else None,
            vector=added.bias.read().float() * added.scale if added and added.bias else None,
        )


@frozen(eq=False)
class Loaded:
    """An edit with its values in memory, in fp32."""

    edit: Edit
    a: torch.Tensor | None
    b: torch.Tensor | None
    magnitude: torch.Tensor | None
    vector: torch.Tensor | None

    def apply(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """The new values of `rows` (fp32, the replacement's where there is one), which begin at row `first`."""
        if self.vector is not None:
            return rows + self.vector[first : first + rows.shape[0]]
        pair = self.edit.low_rank
        if pair is None or self.a is None or self.b is None:
            return rows
        import torch

        last = first + rows.shape[0]
        left, right = (self.a[:, first:last].T, self.b.T) if pair.transposed else (self.b[first:last], self.a)
        changed = torch.addmm(rows, left, right, alpha=pair.scale)
        if self.magnitude is None:
            return changed
        if pair.transposed:
            return changed * (self.magnitude / torch.linalg.norm(changed, dim=0))
        return changed * (self.magnitude[first:last] / torch.linalg.norm(changed, dim=1)).unsqueeze(1)
