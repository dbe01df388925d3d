"""Exporters: what a finished adapter is made into."""

from loraplug import hookimpl
from loraplug_export.adapter import AdapterExporter
from loraplug_export.merged import MergedExporter


@hookimpl
def loraplug_exporters() -> list[type]:
    """`adapter`, `merged`."""
    return [AdapterExporter, MergedExporter]
