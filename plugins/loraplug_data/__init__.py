"""Dataset sources for data that already is rows: JSON, JSON Lines, parquet, a saved data set, the hub."""

from collections.abc import Sequence

from loraplug import DatasetSource, hookimpl
from loraplug_data.sources import DiskSource, HubSource, JsonLinesSource, JsonSource, ParquetSource


@hookimpl
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:
    """The five sources."""
    return [JsonSource, JsonLinesSource, ParquetSource, DiskSource, HubSource]
