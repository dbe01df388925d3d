"""A loraplug plugin: see `part.py`."""

from collections.abc import Sequence

from loraplug import Quantizer, hookimpl
from my_package.part import MyPart

LORAPLUG_API = "2.0"


@hookimpl
def loraplug_quantizers() -> Sequence[type[Quantizer]]:
    """Provide `my-part`."""
    return [MyPart]
