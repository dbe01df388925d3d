"""A loraplug plugin: see `part.py`."""

from collections.abc import Sequence

from loraplug import Exporter, hookimpl
from my_package.part import MyPart

LORAPLUG_API = "2.0"


@hookimpl
def loraplug_exporters() -> Sequence[type[Exporter]]:
    """Provide `my-part`."""
    return [MyPart]
