"""The private APIs of peft and bitsandbytes that are used. `tests/sft/test_adapters_compat.py` tests what is relied on,
and fails when a version no longer needs a workaround.

For models whose experts transformers 5 fuses into one tensor (Qwen2-MoE, DeepSeek, GLM-MoE …) peft rewrites the
targets of every adapter by the ends of their names: `gate_proj`, `up_proj` and `down_proj` come to mean the fused
experts, also where they are a shared expert's or a dense layer's, which then get no adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def read_by_peft(model: Any, config: Any, names: Sequence[str]) -> dict[str, str]:
    """What peft alone takes the LoRA tensors of a file for: each one's name in the file, by its name in the model.

    Args:
        model: the base, or a `PeftModel` of it; it may have no memory.
        names: as in the file, all of them: peft puts some together.
    """
    import torch
    from peft.utils import transformers_weight_conversion as conversion

    given = {name: torch.full((1, 1), float(number)) for number, name in enumerate(names)}
    try:
        read = conversion.convert_peft_adapter_state_dict_for_transformers(model, config, dict(given))
    except Exception:  # whatever a conversion of transformers' raises that was not made for this
        return {}
    return {found: names[int(value.flatten()[0])] for found, value in read.items() if value.shape == (1, 1)}


def renamed(model: Any, path: str, saved: bool = False) -> str:
    """What transformers makes of a name in a checkpoint of this model's kind; with `saved`, the other way about.

    Args:
        path: a name without peft's prefix.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    mapping = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightRenaming)]
    if saved:
        mapping = [one.reverse_transform() for one in reversed(mapping)]
    name, _ = rename_source_key(path, mapping, [], reverse=saved)
    return str(name)


@contextmanager
def names_as_saved() -> Iterator[None]:
    """Context manager: peft loads an adapter's tensors into the modules they name, if the model has all of these.

    peft renames them first as transformers renames those of the base's checkpoint. That changes names that are right
    already (Laguna: `mlp.shared_expert.`, a pattern, is found in `mlp.shared_experts`), whose adapters then stay zero.
    """
    from peft.utils import transformers_weight_conversion as conversion

    from loraplug.adapters.names import model_names

    original = conversion.convert_peft_adapter_state_dict_for_transformers

    def convert(model: Any, peft_config: Any, adapter_state_dict: dict[str, Any], adapter_name: str = "default") -> Any:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        names = model_names(base, adapter_state_dict)
        modules = {name for name, _ in model.named_modules()}
        if {name.partition(".lora_")[0] for name in names.values() if ".lora_" in name} <= modules:
            return {names[name]: value for name, value in adapter_state_dict.items()}
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
