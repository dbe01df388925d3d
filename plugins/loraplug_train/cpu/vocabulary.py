"""Embedding and output layer of a quantized base, stored in bfloat16 if the published weights are bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_PIECE_ROWS = 512  # rows of the table that are converted to float32 at once


class _Table(torch.nn.Module):  # type: ignore[misc]
    """Frozen weights (vocabulary, hidden) in bfloat16; a buffer, so that `model.dtype` is not affected."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)


class Lookup(_Table):
    """An embedding stored in bfloat16 that returns float32."""

    def forward(self, ids: Tensor) -> Tensor:
        """(..., hidden) for ids of any shape."""
        return functional.embedding(ids, self.weight).float()


class Output(_Table):
    """An output layer stored in bfloat16 that multiplies in float32."""

    bias = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocabulary) of (..., hidden)."""
        return torch.cat([functional.linear(hidden, piece) for piece in self.pieces()], -1)

    def pieces(self) -> Iterator[Tensor]:
        """The table in float32, in chunks (rows, hidden)."""
        return (part.float() for part in self.weight.split(_PIECE_ROWS))


def store_as_bfloat16(base: Any) -> None:
    """Store the embedding and output layer of a quantized model on the CPU in bfloat16 if that changes no value.

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
    del embedding  # free the old table before the next is converted
    if narrowed is not None:
        base.set_input_embeddings(Lookup(narrowed))
    if not tied:
        narrowed = _narrowed(head.weight)
    if narrowed is not None:
        base.set_output_embeddings(Output(narrowed))


def _narrowed(weight: Tensor) -> Tensor | None:
    """A frozen float32 weight as bfloat16, or None if that would change a value."""
    if weight.requires_grad or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    weight = weight.detach()
    exact = all(torch.equal(part.bfloat16().float(), part) for part in weight.split(_PIECE_ROWS))
    return weight.bfloat16() if exact else None
