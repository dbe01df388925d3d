"""The torchao quantizer."""

from collections.abc import Sequence

from loraplug import Quantizer, hookimpl
from loraplug_torchao.quantizer import TorchAo


@hookimpl
def loraplug_quantizers() -> Sequence[type[Quantizer]]:
    """The quantizer `torchao`."""
    return [TorchAo]
