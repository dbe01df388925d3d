"""A loraplug plugin: see `part.py`."""

from collections.abc import Sequence

from loraplug import Trainer, hookimpl
from my_package.part import MyPart

LORAPLUG_API = "2.0"


@hookimpl
def loraplug_trainers() -> Sequence[type[Trainer]]:
    """Provide `my-part`."""
    return [MyPart]
