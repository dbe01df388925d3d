"""The private APIs of torch and transformers that training uses; no other module of this package uses any.

`tests/sft/test_train_compat.py` holds what is relied on, and says what another version broke.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's x·weightᵀ + bias, where `HAS_ONEDNN`; RuntimeError where it cannot allocate memory for generated
    code.
    """
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


def log_softmax_(logits: Tensor) -> Tensor:
    """Log-softmax over the last axis, in place; `torch.log_softmax` has no `out`."""
    made: Tensor = torch._log_softmax(logits, -1, False, out=logits)
    return made


def attention(qkv: Sequence[Tensor], scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention (batch, heads, tokens, size) on the CPU with the log-sum-exps that its backward takes."""
    out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*qkv, 0.0, True, scale=scale)
    return out, sums


def attention_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `attention` by q, k and v."""
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    by_q, by_k, by_v = backward(gradient, q, k, v, out, sums, 0.0, True, scale=scale)
    return by_q, by_k, by_v


def undivided(model: Any) -> list[str]:
    """Class names of the blocks that must stay on one device (`_no_split_modules`); empty where a model has none."""
    return [*(getattr(model, "_no_split_modules", None) or ())]
