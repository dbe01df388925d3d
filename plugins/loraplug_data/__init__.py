"""Dataset sources for files, databases and the hub, row transforms, and the command `data`."""

from collections.abc import Sequence

import click

from loraplug import DatasetSource, Transform, hookimpl
from loraplug_data.cleaning import Redact
from loraplug_data.command import data
from loraplug_data.duplicates import Deduplicate
from loraplug_data.hub import HubSource
from loraplug_data.overlaps import Decontaminate
from loraplug_data.selecting import Select
from loraplug_data.sources import (
    ArrowSource,
    CsvSource,
    DiskSource,
    JsonLinesSource,
    JsonSource,
    ParquetSource,
)
from loraplug_data.sql import SqlSource
from loraplug_data.templating import Template
from loraplug_data.traces.source import TraceSource
from loraplug_data.transforms import Rename, Sample, Shuffle
from loraplug_data.values import Map


@hookimpl
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:
    """The dataset sources of this package."""
    return [
        JsonSource,
        JsonLinesSource,
        CsvSource,
        ParquetSource,
        ArrowSource,
        DiskSource,
        HubSource,
        SqlSource,
        TraceSource,
    ]


@hookimpl
def loraplug_transforms() -> Sequence[type[Transform]]:
    """The transforms of this package."""
    return [Decontaminate, Deduplicate, Map, Redact, Rename, Sample, Select, Shuffle, Template]


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """`loraplug data`."""
    return [data]
