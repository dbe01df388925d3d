"""Liger's Triton kernels in place of a model's norms, rotary embeddings and MLP, through transformers.

https://github.com/linkedin/Liger-Kernel, https://huggingface.co/docs/transformers/trainer#liger
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from loraplug import InputError

WHERE = "trainer.kernel"


def lacking() -> str | None:
    """What keeps liger from running here, or None; imports nothing."""
    missing = [name for name in ("liger_kernel", "triton") if find_spec(name) is None]
    if not missing:
        return None
    return '"liger" needs an NVIDIA or AMD GPU and `pip install liger-kernel`' + f" (not found: {', '.join(missing)})"


def install(model: Any) -> str:
    """Install the kernels in a `PeftModel`, in place, except liger's loss; returns a sentence for the log.

    Raises:
        InputError: the model is not on a GPU.
    """
    if model.device.type == "cpu":
        raise InputError('"liger" runs on a GPU only', where=WHERE, todo='set "auto" or "plain"')
    from transformers.integrations.liger import apply_liger_kernel

    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    return "kernel: transformers' own, with liger's norms, rotary embeddings and MLP"
