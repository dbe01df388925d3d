"""Products, norms and turns of the fast path, each with its backward; all tensors float32, (tokens, features)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·weightᵀ + bias; `weight` may be a transposed view."""
    if _ONEDNN:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    return functional.linear(x, weight, bias)


def rms_scale(x: Tensor, eps: float) -> Tensor:
    """1/sqrt(mean(x²) + eps), shape (..., 1)."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def rms(x: Tensor, root: Tensor, scale: Tensor) -> Tensor:
    """Root mean square norm (Zhang and Sennrich 2019)."""
    return (x * root).mul_(scale)


def rms_backward(gradient: Tensor, x: Tensor, root: Tensor, scale: Tensor) -> Tensor:
    """Gradient of `rms` by x; overwrites `gradient`."""
    gradient.mul_(scale)
    along = (gradient * x).sum(-1, keepdim=True).mul_(root.pow(3)).div_(-x.shape[-1])
    return gradient.mul_(root).addcmul_(x, along)


def turn_(x: Tensor, cos: Tensor, sin: Tensor, back: bool = False) -> Tensor:
    """Rotary position embedding (Su et al. 2021) in place; x (tokens, heads, size), cos and sin (tokens, 1, size/2)."""
    first, second = x.chunk(2, -1)
    sign = -1.0 if back else 1.0
    moved = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-sign)
    second.mul_(cos).add_(moved, alpha=sign)
    return x


def attend(q: Tensor, k: Tensor, v: Tensor, rows: Any, scale: float) -> tuple[Tensor, list[Tensor]]:
    """Causal attention within each row; q (tokens, heads, size), k and v (tokens, groups, size).

    Returns:
        (tokens, heads · size), and what `attend_backward` needs beside it: log-sum-exps, one tensor a row.
    """
    found = [
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*_heads(q, k, v, row), 0.0, True, scale=scale)
        for row in rows
    ]
    outs = [out.permute(2, 0, 1, 3).flatten(1) for out, _ in found]
    return torch.cat(outs) if len(outs) > 1 else outs[0], [sums for _, sums in found]


def attend_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Any, rows: Any, scale: float
) -> list[Tensor]:
    """Gradients of `attend` by q, k and v, in their shapes."""
    grads = [torch.empty_like(part) for part in (q, k, v)]
    for row, kept in zip(rows, sums, strict=True):
        heads = _heads(q, k, v, row)
        shaped = [_grouped(part.view(q.shape), k.shape[1], row) for part in (gradient, out)]
        by_q, by_k, by_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            shaped[0], *heads, shaped[1], kept, 0.0, True, scale=scale
        )
        part = slice(*row)
        grads[0][part] = by_q.permute(2, 0, 1, 3).flatten(1, 2)
        torch.sum(by_k.permute(2, 0, 1, 3), 2, out=grads[1][part])
        torch.sum(by_v.permute(2, 0, 1, 3), 2, out=grads[2][part])
    return grads


def _grouped(x: Tensor, groups: int, row: tuple[int, int]) -> Tensor:
    """(tokens, heads, size) as (groups, heads of a group, tokens of the row, size), a view."""
    return x[slice(*row)].unflatten(1, (groups, -1)).permute(1, 2, 0, 3)


def _heads(q: Tensor, k: Tensor, v: Tensor, row: tuple[int, int]) -> list[Tensor]:
    """q, k and v as attention wants them, groups in place of a batch; k and v are repeated without a copy."""
    groups = k.shape[1]
    grouped = [_grouped(part, groups, row) for part in (q, k, v)]
    return [grouped[0], *(part.expand(-1, grouped[0].shape[1], -1, -1) for part in grouped[1:])]
