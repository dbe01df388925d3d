"""8-bit weight-only loading of the base with torchao."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import frozen

from loraplug import Doc, Problem, Quantizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, TorchAoConfig


@frozen
class TorchAo(Quantizer):
    """The frozen base with 8-bit weights by torchao, on a GPU or the CPU; matrix products are in full precision."""

    name = "torchao"
    type: Annotated[Literal["int8_weight_only"], Doc("torchao's name of the format: one scale per row of a weight")] = (
        "int8_weight_only"
    )

    def check(self, recipe: Any) -> Iterable[Problem]:  # noqa: ARG002
        """Report if torchao is not installed."""
        if find_spec("torchao") is None:
            yield Problem("quantizer.use", 'torchao is not installed: pip install "torchao>=0.18"')

    def config(self, dtype: Any) -> TorchAoConfig:  # noqa: ARG002
        """The `transformers` config; matrix products are computed in the dtype that the model is loaded in."""
        import logging

        from transformers import TorchAoConfig

        logging.getLogger("torchao").setLevel(logging.ERROR)  # it warns about kernels of other machines
        return TorchAoConfig(_weight_only())

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Freeze the base's parameters."""
        model.requires_grad_(False)
        return model

    def dequantize(self, weight: Tensor, dtype: Any) -> Tensor:
        """See `Quantizer.dequantize`."""
        import torch
        from torchao.quantization import quantize_

        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=dtype)
        layer.weight.data.copy_(weight)
        quantize_(layer, _weight_only())
        made: Tensor = layer.weight.dequantize().float()
        return made


def _weight_only() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig()
