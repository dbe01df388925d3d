"""What an adapter does to each weight of its base, in float32 and in chunks of rows.

LoRA: W + s B A with s = alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv:2106.09685, arXiv:2312.03732).
DoRA: m (W + s B A) / |W + s B A|, the norm taken over the inputs of each output (arXiv:2402.09353).

`Edit` and `LowRank` hold references to tensors in files; `load` reads them when the weight is processed.
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
        """Shape of the weight it belongs to, as stored."""
        outputs, inputs = self.b.shape[0], self.a.shape[1]
        return (inputs, outputs) if self.transposed else (outputs, inputs)


@frozen
class Rows:
    """Rows of an embedding or output layer that an adapter replaces or adds.

    Attributes:
        numbers: token ids, in the order of the values; may be beyond the last row of the base.
        values: (rows, hidden size).
    """

    numbers: tuple[int, ...]
    values: Tensor

    def put_on(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """`rows`, which begin at row `first`, with the adapter's rows in their place."""
        inside = [(at, number - first) for at, number in enumerate(self.numbers) if 0 <= number - first < len(rows)]
        if not inside:
            return rows
        import torch

        made, values = rows.clone(), self.values.read().to(rows.dtype)
        made[torch.tensor([number for _, number in inside])] = values[torch.tensor([at for at, _ in inside])]
        return made

    def grown(self, count: int) -> int:
        """The number of rows after adding the adapter's, of a weight with `count` rows in the base."""
        return max(count, 1 + max(self.numbers))


@frozen
class Edit:
    """The change of one parameter: it is replaced, then changed by a LoRA pair, or a vector is added.

    Attributes:
        replacement: the parameter as saved with the adapter (`modules_to_save`, trained biases, resized embeddings).
        low_rank: the LoRA pair on it.
        added: the LoRA pair whose bias is added to this parameter.
        rows: rows that are replaced or added.
    """

    replacement: Tensor | None = None
    low_rank: LowRank | None = None
    added: LowRank | None = None
    rows: Rows | None = None

    @property
    def replaces(self) -> bool:
        """Whether values of the base are replaced, all or some rows."""
        return self.replacement is not None or self.rows is not None

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result, for a parameter of shape `stored` in the base."""
        if self.replacement is not None:
            return tuple(self.replacement.shape)
        return (self.rows.grown(stored[0]), *stored[1:]) if self.rows is not None else stored

    @property
    def by_rows(self) -> bool:
        """Whether rows can be computed independently; not for DoRA on transposed weights, whose norms span rows."""
        return self.low_rank is None or self.low_rank.magnitude is None or not self.low_rank.transposed

    def without_low_rank(self) -> Edit:
        """The edit that a layer tied to this parameter gets if it has no adapter of its own."""
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
    """An edit with its values in memory, in float32."""

    edit: Edit
    a: torch.Tensor | None
    b: torch.Tensor | None
    magnitude: torch.Tensor | None
    vector: torch.Tensor | None

    def apply(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """The new values of `rows` (float32, already replaced if there is a replacement), which begin at row
        `first`.
        """
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
