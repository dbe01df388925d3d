"""The precision of a model with adapters: the same rule in training, validation and generation.

Stored: frozen weights as the loader and the quantizer left them; trained weights (LoRA's A and B, DoRA's magnitudes,
modules trained whole) in float32, since small updates are lost in the 8 bits that bfloat16 has for them.

Computed: in the dtype that the base was loaded in. Where that is bfloat16 or float16, every call of the model runs
under `torch.autocast` of it: products take it, norms, softmax and losses float32. Where it is float32, all is float32.

The fast kernel (`loraplug_train.cpu.kernel`) leaves autocast: it rounds what goes into products with frozen weights,
and computes all else in float32. Merges and their proofs are computed in float32 throughout.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

from loraplug.adapters.compat import keep_int8_scales


def mixed_precision(model: Any, dtype: Any) -> None:
    """Hold a `PeftModel`, or a model that is trained itself, to the rule: calls of its base compute in `dtype`.

    Done once for a model, after everything else that replaces the base's `forward`.

    Args:
        model: adapters and modules trained whole must be in it already; they become float32.
        dtype: the torch dtype that the base was loaded in, before adapters.
    """
    import torch

    adapted = hasattr(model, "peft_config")
    if adapted:
        store_in_float32(model)
    if dtype not in (torch.bfloat16, torch.float16):
        return
    base = model.get_base_model() if adapted else model
    forward = base.forward

    @wraps(forward)
    def autocast(*args: Any, **inputs: Any) -> Any:
        with computing_in(dtype, base.device):
            return forward(*args, **inputs)

    base.forward = autocast


def computing_in(dtype: Any, device: Any) -> AbstractContextManager[Any]:
    """Context manager: models compute as those that `mixed_precision` holds to the rule, for calls made before it is.

    Args:
        dtype: the torch dtype that the base was loaded in.
        device: the torch device that the model is on.
    """
    import torch

    return torch.autocast(device.type, dtype) if dtype in (torch.bfloat16, torch.float16) else nullcontext()


def store_in_float32(model: Any) -> None:
    """The part of the rule that tells how a `PeftModel` is stored: what adapters brought becomes float32, in place."""
    base = model.get_base_model()
    keep_int8_scales(base)
    for module in _trained_modules(base):
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.float()


def _trained_modules(base: Any) -> list[Any]:
    """The containers in which peft keeps what belongs to an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    found = []
    for module in base.modules():
        if isinstance(module, ModulesToSaveWrapper):
            found.append(module.modules_to_save)
        elif isinstance(module, BaseTunerLayer):
            parts = (getattr(module, name, None) for name in module.adapter_layer_names)
            found += [part for part in parts if hasattr(part, "parameters")]
    return found
