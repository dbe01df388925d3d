"""Matrix products, norms, rotary embeddings and attention of the fast path, with their backward; float32, tokens first.

Weights may be bfloat16: then what goes into a product and what comes out of it is rounded to bfloat16, and added up in
float32 between, as Micikevicius et al. (2018) train in mixed precision; everything between products stays float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from loraplug_train import compat

# bytes; a 4-bit weight up to this size is dequantized at once, a larger one in chunks of at most this
_PIECE_BYTES = 20 << 20
_PIECE_ROWS = 512  # rows of a chunk, at most; products of much fewer rows are slow


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·weightᵀ + bias in float32; `weight` may be a transposed view, and bfloat16.

    oneDNN is a tenth to a half quicker than torch's BLAS.
    """
    x = x.to(weight.dtype)
    if compat.HAS_ONEDNN:
        with suppress(RuntimeError):  # oneDNN could not allocate memory for generated code; BLAS needs none
            return compat.linear(x, weight, bias).float()
    return functional.linear(x, weight, bias).float()


def matmul_chunks(x: Tensor, weight: Iterable[Tensor], width: int, bias: Tensor | None = None) -> Tensor:
    """x·weightᵀ, shape (tokens, width), with a weight that comes in chunks of rows."""
    out, at = torch.empty(0), 0
    for piece in weight:
        if len(piece) == width:
            return product(x, piece, bias)
        out = out if at else x.new_empty(len(x), width)
        out[:, at : at + len(piece)] = product(x, piece)
        at += len(piece)
    return out if bias is None else out.add_(bias)


def matmul_chunks_backward(gradient: Tensor, weight: Iterable[Tensor]) -> Tensor:
    """gradient·weight, shape (tokens, in), with a weight that comes in chunks of rows."""
    into, at = torch.empty(0), 0
    for piece in weight:
        part = product(gradient[:, at : at + len(piece)], piece.t())
        into, at = into.add_(part) if at else part, at + len(piece)
    return into


def four_bits(weight: Any, dtype: torch.dtype) -> Iterator[Tensor]:
    """The weight of a bitsandbytes `Linear4bit`, (out, in), in chunks (rows, in) of `dtype`. A layer of 5,632 by 2,048
    is a quarter faster this way than dequantized whole, where each large allocation is page-faulted and zeroed.
    """
    from bitsandbytes.functional import QuantState, dequantize_4bit, dequantize_blockwise

    state, halves = weight.quant_state, weight.detach().view(torch.uint8).flatten()  # two values a byte
    (rows, width), block, kind = state.shape, state.blocksize, state.quant_type
    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(scales, state.state2).add_(state.offset)
    # where a chunk would end inside a quantization block, bitsandbytes (0.50) may use the wrong scale: dequantize whole
    whole = width % block or 4 * rows * width <= _PIECE_BYTES
    step = rows if whole else max(1, min(_PIECE_ROWS, _PIECE_BYTES // (4 * width)))
    for at in range(0, rows, step):
        end = min(at + step, rows)
        own = scales[at * width // block : -(-end * width // block)].float()
        piece = QuantState(own, (end - at, width), dtype=state.dtype, blocksize=block, quant_type=kind)
        yield dequantize_4bit(halves[at * width // 2 : -(-end * width // 2)], piece).to(dtype)


def _root(x: Tensor, norm: Any) -> Tensor:
    return x.square().mean(-1, keepdim=True).add_(norm.variance_epsilon).rsqrt_()


def rms_norm(x: Tensor, norm: Any) -> Tensor:
    """Root mean square norm (Zhang and Sennrich 2019) with the weight and epsilon of the module `norm`."""
    return (x * _root(x, norm)).mul_(norm.weight)


def rms_norm_backward(gradient: Tensor, x: Tensor, norm: Any) -> Tensor:
    """Gradient of `rms_norm` by x; overwrites `gradient`."""
    root = _root(x, norm)
    gradient.mul_(norm.weight)
    along = (gradient * x).sum(-1, keepdim=True).mul_(root.pow(3)).div_(-x.shape[-1])
    return gradient.mul_(root).addcmul_(x, along)


def rotate_(x: Tensor, cos: Tensor, sin: Tensor, sign: float = 1.0) -> None:
    """Rotary position embedding (Su et al. 2021) in place, undone with sign -1; cos and sin (tokens, 1, 1, size/2)."""
    first, second = x.chunk(2, -1)
    moved = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-sign)
    second.mul_(cos).add_(moved, alpha=sign)


def _heads(tensors: Iterable[Tensor], row: slice, width: int) -> list[Tensor]:
    """A row's heads in the layout that attention takes, (groups, heads of a group, tokens, size); repeated without a
    copy.
    """
    return [x[row].permute(1, 2, 0, 3).expand(-1, width, -1, -1) for x in tensors]


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, rows: Sequence[slice], scale: float
) -> tuple[Tensor, list[Tensor]]:
    """Causal attention in each row; q (tokens, groups, heads of a group, size), k and v (tokens, groups, 1, size).

    Returns:
        A tensor shaped as q, and what `causal_attention_backward` needs beside it: log-sum-exps, one tensor a row.
    """
    found = [compat.attention(_heads((q, k, v), row, q.shape[2]), scale) for row in rows]
    return torch.cat([out.permute(2, 0, 1, 3) for out, _ in found]), [sums for _, sums in found]


def causal_attention_backward(
    gradient: Tensor, inputs: Sequence[Tensor], out: Tensor, sums: Sequence[Tensor], rows: Sequence[slice], scale: float
) -> list[Tensor]:
    """Gradients of `causal_attention` by q, k and v (`inputs`), in their shapes."""
    grads = [torch.empty_like(part) for part in inputs]
    for row, kept in zip(rows, sums, strict=True):
        by_out, q, k, v, mixed = _heads((gradient, *inputs, out), row, out.shape[2])
        found = compat.attention_backward(by_out, q, k, v, mixed, kept, scale)
        for grad, part in zip(grads, found, strict=True):
            grad[row] = part.permute(2, 0, 1, 3).sum_to_size(grad[row].shape)
    return grads
