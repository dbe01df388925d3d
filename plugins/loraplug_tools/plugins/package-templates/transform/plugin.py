"""A loraplug plugin: see `part.py`."""

from collections.abc import Sequence

from loraplug import Transform, hookimpl
from my_package.part import MyPart

LORAPLUG_API = "2.0"


@hookimpl
def loraplug_transforms() -> Sequence[type[Transform]]:
    """Provide `my-part`."""
    return [MyPart]
