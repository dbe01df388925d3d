"""The weights of a quantized base as the adapter saw them in training: quantized and dequantized again.

bitsandbytes rounds every weight once when a base is loaded in 4 or 8 bits; the adapter learns on top of the rounded
ones. The same functions, with the settings kept in the adapter's `loraplug.json`, give the same rounded weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import PROVENANCE, InputError, Provenance, Quantizer, read_provenance
from loraplug_export.compat import kept_in_fp32
from loraplug_export.plan import Plan, UnsupportedAdapterError

if TYPE_CHECKING:
    import torch

WeightTransform = Callable[["torch.Tensor"], "torch.Tensor"]
"""A transform of a stored weight (whole) to the float32 weight that the adapter is merged into."""


def dequantized(plan: Plan, adapter: Path, quantizer: Quantizer | None = None) -> Mapping[str, WeightTransform]:
    """For each weight that was quantized in training, by stored name, the transform to its value in training.

    Args:
        plan: the merge.
        adapter: its folder.
        quantizer: the quantizer of the training, if known; else bitsandbytes' is rebuilt from its settings.

    Raises:
        InputError: the adapter was not trained on a quantised base, or not with bitsandbytes, or it is not recorded.
    """
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    provenance = read_provenance(adapter)
    settings, dtype = _settings(provenance, adapter), (provenance and provenance.dtype) or "float32"
    round_trip = _rounding(settings, dtype, adapter) if quantizer is None else _by(quantizer, dtype)
    skipped = settings.get("llm_int8_skip_modules") or settings.get("modules_to_not_convert")
    skipped = get_keys_to_not_convert(plan.model) if skipped is None else skipped
    skipped = [*skipped, *kept_in_fp32(plan.model)]
    found: dict[str, WeightTransform] = {}
    for name, module in plan.model.named_modules():
        turned = isinstance(module, Conv1D)
        if (turned or type(module) is Linear) and should_convert_module(name, skipped):
            if f"{name}.weight" not in plan.names:
                raise UnsupportedAdapterError(f"the base stores {name}.weight in a converted form")
            found[plan.names[f"{name}.weight"]] = _turned(round_trip) if turned else round_trip
    return found


def _settings(provenance: Provenance | None, adapter: Path) -> dict[str, Any]:
    settings = provenance.quantization if provenance is not None else None
    if not settings:
        said = (
            f"has no {PROVENANCE} that says how its base was quantised"
            if provenance is None
            else "records that its base was not quantized"
        )
        raise InputError(
            f'the adapter {said}, so onto = "dequantized" does not apply',
            where=adapter,
            todo='use onto = "original"',
        )
    return dict(settings)


def _by(quantizer: Quantizer, dtype: str) -> WeightTransform:
    import torch

    number = getattr(torch, dtype.removeprefix("torch."))
    return lambda weight: quantizer.dequantize(weight=weight, dtype=number)


def _rounding(settings: Mapping[str, Any], dtype_name: str, adapter: Path) -> WeightTransform:
    if not (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        method = settings.get("quant_method", "an unknown method")
        raise InputError(
            f"the base was quantized by {method}, whose rounding cannot be reproduced here",
            where=adapter / PROVENANCE,
            todo='use onto = "original"',
        )
    import torch
    from bitsandbytes import functional

    dtype = getattr(torch, dtype_name.removeprefix("torch."))

    def four_bits(weight: torch.Tensor) -> torch.Tensor:
        packed, state = functional.quantize_4bit(
            weight.to(dtype).contiguous(),
            compress_statistics=bool(settings.get("bnb_4bit_use_double_quant")),
            quant_type=settings.get("bnb_4bit_quant_type", "fp4"),
        )
        return functional.dequantize_4bit(packed, state).float()

    def eight_bits(weight: torch.Tensor) -> torch.Tensor:
        packed, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16).contiguous())
        return functional.int8_vectorwise_dequant(packed, scales).float()

    return four_bits if settings.get("load_in_4bit") else eight_bits


def _turned(round_trip: WeightTransform) -> WeightTransform:
    return lambda weight: round_trip(weight.T).T.contiguous()
