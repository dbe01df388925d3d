"""A loraplug plugin: see `part.py`."""

from collections.abc import Sequence

from loraplug import Formatter, hookimpl
from my_package.part import MyPart

LORAPLUG_API = "2.0"


@hookimpl
def loraplug_formatters() -> Sequence[type[Formatter]]:
    """Provide `my-part`."""
    return [MyPart]
