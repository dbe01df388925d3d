"""The undocumented parts of bitsandbytes that are used here; `tests/test_bnb_compat.py` tests what is relied on."""

from __future__ import annotations

from typing import Any


def keep_layout_with_gradients(model: Any) -> None:
    """Keep 4-bit layers from repacking their weights, in place.

    On CPUs with AVX512-BF16, bitsandbytes (0.50) repacks a layer's weights at the first forward in evaluation mode,
    permanently, and the kernel for that layout has no backward pass.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
