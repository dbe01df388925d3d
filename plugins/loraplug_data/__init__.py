"""Dataset sources for data that already is rows (JSON, CSV, parquet, Arrow, a saved data set, the hub); `data`."""

from collections.abc import Sequence

import click

from loraplug import DatasetSource, hookimpl
from loraplug_data.command import data
from loraplug_data.sources import (
    ArrowSource,
    CsvSource,
    DiskSource,
    HubSource,
    JsonLinesSource,
    JsonSource,
    ParquetSource,
)


@hookimpl
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:
    """The sources."""
    return [JsonSource, JsonLinesSource, CsvSource, ParquetSource, ArrowSource, DiskSource, HubSource]


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """`loraplug data`."""
    return [data]
