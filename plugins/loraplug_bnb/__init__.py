"""The bitsandbytes quantizer."""

from collections.abc import Sequence

from loraplug import Quantizer, hookimpl
from loraplug_bnb.quantizer import BitsAndBytes


@hookimpl
def loraplug_quantizers() -> Sequence[type[Quantizer]]:
    """The quantizer `bitsandbytes`."""
    return [BitsAndBytes]
