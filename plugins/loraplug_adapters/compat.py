"""What is done to bitsandbytes' 8-bit layers so that adapters can be put on them; these names are its internals.

A test in `tests/sft/test_precision.py` tells when a version no longer needs it, or has other names.
"""

from __future__ import annotations

from typing import Any


def keep_int8_scales(base: Any) -> None:
    """Have every 8-bit layer of a model keep its scales when peft looks at its weight.

    DoRA dequantises the weight in each call. On a CPU peft (0.21) then puts a copy of it in its place, which
    bitsandbytes (0.50) takes for a freshly quantised one, whose scales it moves into the layer: there are none by then,
    and the next call fails.
    """
    for module in base.modules():
        ours = hasattr(getattr(module, "state", None), "SCB")  # peft's wrapper has the same name, and no state
        if ours and _give_scales not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_give_scales)


def _give_scales(module: Any, _: Any) -> None:
    weight = module.weight
    if getattr(weight, "CB", None) is not None and weight.SCB is None:
        weight.SCB = module.state.SCB
