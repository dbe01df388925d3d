"""The private APIs of peft and bitsandbytes that are used. `tests/sft/test_adapters_compat.py` tests what is relied on,
and fails when a version no longer needs a workaround.

For models whose experts transformers 5 fuses into one tensor (Qwen2-MoE, DeepSeek, GLM-MoE …) peft rewrites the
targets of every adapter by the ends of their names: `gate_proj`, `up_proj` and `down_proj` come to mean the fused
experts, also where they are a shared expert's or a dense layer's, which then get no adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any


def rewritten_names(model: Any) -> frozenset[str]:
    """The last parts of module names that peft takes for fused experts in a model of this type."""
    from peft.utils import transformers_weight_conversion as conversion

    kind = conversion._MODEL_TO_CONVERSION_PATTERN.get(getattr(model.config, "model_type", None))
    return frozenset(conversion._MOE_TARGET_MODULE_MAPPING.get(kind, ()))


@contextmanager
def targets_as_written() -> Iterator[None]:
    """Context manager: peft adapts the modules that a config names, and no others in their place."""
    from peft.utils import transformers_weight_conversion as conversion

    original = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *_, **__: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = original


@contextmanager
def names_as_saved() -> Iterator[None]:
    """Context manager: peft loads an adapter's tensors into the modules they name, if the model has all of these.

    peft renames them first as transformers renames those of the base's checkpoint. That changes names that are right
    already (Laguna: `mlp.shared_expert.`, a pattern, is found in `mlp.shared_experts`), whose adapters then stay zero.
    """
    from peft.utils import transformers_weight_conversion as conversion

    original = conversion.convert_peft_adapter_state_dict_for_transformers

    def convert(model: Any, peft_config: Any, adapter_state_dict: dict[str, Any], adapter_name: str = "default") -> Any:
        modules = {name for name, _ in model.named_modules()}
        if {name.partition(".lora_")[0] for name in adapter_state_dict if ".lora_" in name} <= modules:
            return adapter_state_dict
        return original(model, peft_config, adapter_state_dict, adapter_name)

    conversion.convert_peft_adapter_state_dict_for_transformers = convert
    try:
        yield
    finally:
        conversion.convert_peft_adapter_state_dict_for_transformers = original


def refused(model: Any, module: str) -> bool:
    """Whether peft refuses to adapt the module, as fused kernels of such a model bypass it."""
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba

    try:
        _check_lora_target_modules_mamba(SimpleNamespace(peft_type="LORA"), model, module.rsplit(".", 1)[-1])
    except ValueError:
        return True
    return False


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
