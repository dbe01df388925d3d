"""A loraplug plugin: see `part.py`."""

from collections.abc import Sequence

from loraplug import DatasetSource, hookimpl
from my_package.part import MyPart

LORAPLUG_API = "2.0"


@hookimpl
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:
    """Provide `my-part`."""
    return [MyPart]
