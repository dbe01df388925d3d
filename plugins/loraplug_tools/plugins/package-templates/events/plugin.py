"""A loraplug plugin: see `part.py`."""

from collections.abc import Callable, Sequence

from loraplug import Event, hookimpl
from my_package.part import MyPart

LORAPLUG_API = "2.0"


@hookimpl
def loraplug_events() -> Sequence[Callable[[Event], None]]:
    """Provide the observer `MyPart`."""
    return [MyPart()]
