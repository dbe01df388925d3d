"""Exporters: write a finished adapter in other forms. Exporters of other packages build on what is published here."""

import click

from loraplug import Exporter, hookimpl
from loraplug_export.adapter import AdapterExporter
from loraplug_export.card import base_licence, loadable_base, public_name, write_card
from loraplug_export.choices import OntoName
from loraplug_export.command import export
from loraplug_export.derive import commands as deriving
from loraplug_export.edits import LowRank
from loraplug_export.estimate import base_bytes, comes_before
from loraplug_export.folders import LICENCES, has_tokenizer
from loraplug_export.generation import generation_settings
from loraplug_export.hub import HubExporter
from loraplug_export.lora_files import WEIGHTS, open_adapter
from loraplug_export.merged import MergedExporter
from loraplug_export.plan import Plan, UnsupportedAdapterError, make_plan
from loraplug_export.rows import rows_of_samples
from loraplug_export.tensors import open_checkpoint, same_values

__all__ = [
    "LICENCES",
    "WEIGHTS",
    "LowRank",
    "MergedExporter",
    "OntoName",
    "Plan",
    "UnsupportedAdapterError",
    "base_bytes",
    "base_licence",
    "comes_before",
    "generation_settings",
    "has_tokenizer",
    "loadable_base",
    "make_plan",
    "open_adapter",
    "open_checkpoint",
    "public_name",
    "rows_of_samples",
    "same_values",
    "write_card",
]


@hookimpl
def loraplug_exporters() -> list[type[Exporter]]:
    """`adapter`, `merged` and `hub`."""
    return [AdapterExporter, MergedExporter, HubExporter]


@hookimpl
def loraplug_commands() -> list[click.Command]:
    """`export`, `merge`, `extract` and `convert`."""
    return [export, deriving.merge, deriving.extract, deriving.convert]  # a module `merge` lies beside this file
