"""Loads the base in 4 or 8 bits with bitsandbytes."""

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
    bits: Annotated[Literal[4, 8], Doc("bits a weight is stored in")] = 4
    quant_type: Annotated[
        Literal["nf4", "fp4"],
        Doc("the 4-bit number format; NF4 suits normally distributed weights", aka=("type", "bnb_4bit_quant_type")),
    ] = "nf4"
    double_quant: Annotated[
        bool,
        Doc(
            "quantise the 4-bit scales too, which saves 0.4 bits a weight", aka=("double", "bnb_4bit_use_double_quant")
        ),
    ] = True

    def config(self, dtype: Any) -> BitsAndBytesConfig:
        """The `transformers` config; matrix products are computed in `dtype`."""
        import logging

        from transformers import BitsAndBytesConfig

        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses an optional kernel package, loudly
        if self.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quant_type,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Freeze the base, in the dtype the loader chose, and keep its 4-bit weights in the layout that has gradients.

        Else a model that is measured before it is trained would pass no gradient through any frozen layer, silently.

        Raises:
            InputError: bitsandbytes reads a layer's weights wrongly, or the model does not run on such weights.
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
    """Find layers whose weights come back wrong.

    Where rows end within a block of scales, bitsandbytes' kernel for AVX-512 (0.50) takes another block's scale if rows
    are a multiple of 16 long. It is tried out, as other processors and versions have kernels without this fault.
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
                f"bitsandbytes gives wrong weights on this CPU for a layer of {shape[-1]} inputs, which is no multiple "
                f"of {state.blocksize}",
                where=f"quantizer, layer {name}",
                todo="take quantizer.bits = 8, leave [quantizer] out, or train on a GPU",
            )


def _check_runs(model: PreTrainedModel, bits: int) -> None:
    """Run a few tokens: some models multiply or change the weight of a layer themselves (Mamba, Gemma 3n), some of them
    in evaluation alone (RWKV).

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
            f"this model uses the weight of a layer past the layer, which it cannot in {bits} bits "
            f"({' '.join(str(error).split())[:120]})",
            where="quantizer",
            todo="leave [quantizer] out",
        ) from error
    finally:
        model.train(was_training)
