"""The private parts of torch, transformers and trl that training takes; nowhere else in this package are any used.

`tests/sft/test_sft_compat.py` holds what is relied on, and says what another version broke. Where no function here
stands between, `OVERRIDDEN` lists the methods of trl's trainer that `loop.LoraTrainer` overrides, and `SCHEDULE` the
keys of a learning-rate schedule's state that it sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

OVERRIDDEN = {
    "_init_training_state": "gives (epochs trained, steps trained in this epoch); begins anew from state.global_step",
    "_prepare_for_training": "makes optimizer and schedule, before the first step",
    "get_batch_samples": "takes the batches of one optimizer step from the loader, and counts their tokens",
    "floating_point_ops": "is called once a micro-batch",
    "training_step": "is called once for what get_batch_samples gave, with its count of tokens",
    "compute_loss": "is called by training_step with the count that training_step was given",
    "create_optimizer": "makes `optimizer`, unless there is one",
    "get_train_dataloader": "is asked once",
}
SCHEDULE = ("last_epoch", "_step_count", "_last_lr")
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's x·weightᵀ + bias, where `HAS_ONEDNN`; RuntimeError where memory has no room for the code it writes."""
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
    """Names of the classes of a model's blocks, each of which must stay on one device; empty where it names none."""
    return [*(getattr(model, "_no_split_modules", None) or ())]


def on_device(trainer: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """A batch where the trainer's model is."""
    moved: dict[str, Any] = trainer._prepare_inputs(batch)
    return moved
