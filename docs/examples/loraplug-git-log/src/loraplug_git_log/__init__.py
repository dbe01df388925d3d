"""A loraplug plugin: the dataset source `git-log`."""

from collections.abc import Sequence

from loraplug import DatasetSource, hookimpl
from loraplug_git_log.source import GitLog


@hookimpl
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:
    """Bring `git-log`."""
    return [GitLog]
