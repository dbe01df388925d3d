"""The undocumented part of bitsandbytes that quantising takes; `tests/test_bnb_compat.py` holds what is relied on."""

from __future__ import annotations

from typing import Any


def keep_layout_with_gradients(model: Any) -> None:
    """Have 4-bit layers keep their weights as they are, in place.

    On CPUs with AVX512-BF16, bitsandbytes (0.50) repacks a layer's weights at the first forward in evaluation mode, for
    good, and the kernel for that layout has no backward.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
