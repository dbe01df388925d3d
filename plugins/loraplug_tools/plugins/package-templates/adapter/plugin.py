"""A loraplug plugin: see `part.py`."""

from collections.abc import Sequence

from loraplug import Adapter, hookimpl
from my_package.part import MyPart

LORAPLUG_API = "2.0"


@hookimpl
def loraplug_adapters() -> Sequence[type[Adapter]]:
    """Provide `my-part`."""
    return [MyPart]
