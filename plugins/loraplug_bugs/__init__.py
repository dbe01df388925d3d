"""Bugs made from a repository of one's own, each one proved by its tests: the dataset source `swe-bugs`."""

from collections.abc import Sequence

from loraplug import DatasetSource, hookimpl
from loraplug_bugs.source import SweBugsSource


@hookimpl
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:
    """The source."""
    return [SweBugsSource]
