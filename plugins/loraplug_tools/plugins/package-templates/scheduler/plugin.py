"""A loraplug plugin: see `part.py`."""

from collections.abc import Sequence

from loraplug import Scheduler, hookimpl
from my_package.part import MyPart

LORAPLUG_API = "2.0"


@hookimpl
def loraplug_schedulers() -> Sequence[type[Scheduler]]:
    """Provide `my-part`."""
    return [MyPart]
