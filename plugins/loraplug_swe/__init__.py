"""Bug-fixing data: the dataset sources `swe-synth` and `swe`, from tasks and repositories to proved conversations."""

from collections.abc import Sequence

from loraplug import DatasetSource, hookimpl
from loraplug_swe.swe import SweSource
from loraplug_swe.synth import SweSynthSource


@hookimpl
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:
    """Both sources."""
    return [SweSynthSource, SweSource]
