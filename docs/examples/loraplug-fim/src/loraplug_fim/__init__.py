"""A loraplug plugin: the formatter `fim`, and the dataset source `source-files` that suits it."""

from collections.abc import Sequence

from loraplug import DatasetSource, Formatter, hookimpl
from loraplug_fim.files import SourceFiles
from loraplug_fim.formatter import Fim


@hookimpl
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:
    """Bring `source-files`."""
    return [SourceFiles]


@hookimpl
def loraplug_formatters() -> Sequence[type[Formatter]]:
    """Bring `fim`."""
    return [Fim]
