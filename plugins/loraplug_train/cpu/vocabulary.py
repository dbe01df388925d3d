"""Embedding and output layer of a quantised base, kept in bfloat16 where they were published so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_PIECE_ROWS = 512  # of a table in float32, made at once


class _Table(torch.nn.Module):  # type: ignore[misc]
    """Frozen values (vocabulary, hidden) in bfloat16; no parameter, so the model's dtype stays that of the others."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)


class Lookup(_Table):
    """An embedding that gives out float32."""

    def forward(self, ids: Tensor) -> Tensor:
        """(..., hidden) for ids of any shape."""
        return functional.embedding(ids, self.weight).float()


class Output(_Table):
    """An output layer that multiplies in float32."""

    bias = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocabulary) of (..., hidden)."""
        return torch.cat([functional.linear(hidden, piece) for piece in self.pieces()], -1)

    def pieces(self) -> Iterator[Tensor]:
        """The table in float32, some rows (rows, hidden) at a time."""
        return (part.float() for part in self.weight.split(_PIECE_ROWS))


def narrow(base: Any) -> None:
    """Halve embedding and output layer of a quantised model on the CPU, where no value changes by it.

    Quantizers leave both alone, and on a CPU they are float32: half of a model of a billion parameters. Most models are
    published in bfloat16, so half of these bits are zero. Both stay as they are if one is trained, adapted or of
    another kind.
    """
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    plain = type(embedding) is torch.nn.Embedding and type(head) is torch.nn.Linear and head.bias is None
    if getattr(base, "hf_quantizer", None) is None or not plain:
        return
    tied = head.weight is embedding.weight
    narrowed = _narrowed(embedding.weight)
    del embedding  # or both tables would be there twice
    if narrowed is not None:
        base.set_input_embeddings(Lookup(narrowed))
    if not tied:
        narrowed = _narrowed(head.weight)
    if narrowed is not None:
        base.set_output_embeddings(Output(narrowed))


def _narrowed(weight: Tensor) -> Tensor | None:
    """A frozen float32 weight in bfloat16, or None where that would change it."""
    if weight.requires_grad or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    weight = weight.detach()
    exact = all(torch.equal(part.bfloat16().float(), part) for part in weight.split(_PIECE_ROWS))
    return weight.bfloat16() if exact else None
