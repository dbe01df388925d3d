"""Exporters: what a finished adapter is made into."""

import click

from loraplug import Exporter, hookimpl
from loraplug_export.adapter import AdapterExporter
from loraplug_export.command import export
from loraplug_export.derive import commands as deriving
from loraplug_export.gguf_adapter import GgufAdapterExporter
from loraplug_export.gguf_file import GgufExporter
from loraplug_export.hub import HubExporter
from loraplug_export.merged import MergedExporter
from loraplug_export.ollama import OllamaExporter


@hookimpl
def loraplug_exporters() -> list[type[Exporter]]:
    """`adapter`, `merged`, `gguf`, `gguf-adapter`, `ollama` and `hub`."""
    return [AdapterExporter, MergedExporter, GgufExporter, GgufAdapterExporter, OllamaExporter, HubExporter]


@hookimpl
def loraplug_commands() -> list[click.Command]:
    """`export`, `merge`, `extract` and `convert`."""
    return [export, deriving.merge, deriving.extract, deriving.convert]  # a module `merge` lies beside this file
