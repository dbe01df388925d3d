"""4-bit and 8-bit loading of the base with bitsandbytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import frozen

from loraplug import Doc, InputError, Quantizer
from loraplug_bnb import compat

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BitsAndBytesConfig, PreTrainedModel


@frozen
class BitsAndBytes(Quantizer):
    """QLoRA: the frozen base in 4 bits (NF4 or FP4) or 8 bits, on a GPU or the CPU (Dettmers et al. 2023)."""

    name = "bitsandbytes"
    bits: Annotated[Literal[4, 8], Doc("bits per weight")] = 4
    quant_type: Annotated[
        Literal["nf4", "fp4"],
        Doc("the 4-bit number format; NF4 suits normally distributed weights", aka=("type", "bnb_4bit_quant_type")),
    ] = "nf4"
    double_quant: Annotated[
        bool,
        Doc(
            "quantize the 4-bit scales too, which saves 0.4 bits per weight",
            aka=("double", "bnb_4bit_use_double_quant"),
        ),
    ] = True

    def config(self, dtype: Any) -> BitsAndBytesConfig:
        """The `transformers` config; matrix products are computed in `dtype`."""
        import logging

        from transformers import BitsAndBytesConfig

        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about a missing optional kernel package
        if self.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quant_type,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Freeze the base, in the loader's dtype, and keep its 4-bit weights in the layout that supports gradients.

        Else a forward pass in evaluation mode would silently disable gradients through all frozen layers.

        Raises:
            InputError: bitsandbytes dequantizes a layer wrongly, or the model fails with quantized weights.
        """
        _check_scales(model)
        model.requires_grad_(False)
        compat.keep_layout_with_gradients(model)
        _check_runs(model, self.bits)
        return model

    def dequantize(self, weight: Tensor, dtype: Any) -> Tensor:
        """See `Quantizer.dequantize`."""
        import torch
        from bitsandbytes import functional

        if self.bits == 8:
            packed, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16).contiguous())
            return functional.int8_vectorwise_dequant(packed, scales).float()
        packed, state = functional.quantize_4bit(
            weight.to(dtype).contiguous(), compress_statistics=self.double_quant, quant_type=self.quant_type
        )
        return functional.dequantize_4bit(packed, state).float()


def _check_scales(model: PreTrainedModel) -> None:
    """Raise InputError if bitsandbytes dequantizes a layer's weights wrongly.

    Where rows end within a quantization block, bitsandbytes' kernel for AVX-512 (0.50) uses another block's scale if
    the row length is a multiple of 16. It is tested, as other processors and versions do not have this bug.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit

    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        state = getattr(weight, "quant_state", None)
        if weight is None or state is None or weight.device.type != "cpu" or not state.shape[-1] % state.blocksize:
            continue
        shape, by_rows = state.shape, dequantize_4bit(weight, state)
        state.shape = torch.Size((1, shape.numel()))
        at_once = dequantize_4bit(weight, state)
        state.shape = shape
        if not torch.equal(by_rows.flatten(), at_once.flatten()):
            raise InputError(
                f"bitsandbytes dequantizes wrongly on this CPU: the layer has {shape[-1]} inputs, which is not a "
                f"multiple of {state.blocksize}",
                where=f"quantizer, layer {name}",
                todo="set quantizer.bits = 8, remove [quantizer], or train on a GPU",
            )


def _check_runs(model: PreTrainedModel, bits: int) -> None:
    """Run a few tokens: some models multiply or change a layer's weight directly (Mamba, Gemma 3n), some of them in
    evaluation alone (RWKV).

    Raises:
        InputError: the model fails on them.
    """
    import torch

    was_training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng():
            for training in (True, False):
                model.train(training)(input_ids=torch.arange(4, device=model.device)[None], use_cache=False)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(
            f"this model uses a layer's weight directly, which is not possible in {bits} bits "
            f"({' '.join(str(error).split())[:120]})",
            where="quantizer",
            todo="remove [quantizer]",
        ) from error
    finally:
        model.train(was_training)
