"""loraplug: LoRA and QLoRA fine-tuning composed from plugins by one TOML recipe.

What is exported here is all a plugin needs.
"""

from loraplug.components import (
    BaseFacts,
    Component,
    DatasetSource,
    Estimate,
    Exporter,
    Formatter,
    ModelLoader,
    Quantizer,
    Sample,
    Trained,
    Trainer,
    TrainingResult,
)
from loraplug.context import Event, Progress, Reporter, Run, published
from loraplug.diagnostics import Diagnostic, Finding
from loraplug.errors import InputError, LoraplugError, PluginError, Problem
from loraplug.files import fresh_place, only_one, working_on
from loraplug.hookspecs import hookimpl
from loraplug.installed import Plugin
from loraplug.lock import shareable
from loraplug.open import Lock, Opened, find_exporter, lock_beside, open_model
from loraplug.printing import echo, printable
from loraplug.provenance import is_own as is_own_lock
from loraplug.provenance import remember as remember_lock
from loraplug.registry import Entry, Registry, load_registry, report
from loraplug.weights import weight_files, weight_names
from loraplug_adapters.load import load_adapter
from loraplug_adapters.precision import mixed_precision
from loraplug_rows.conversation import Conversation
from loraplug_rows.nulls import iter_rows
from loraplug_rows.shapes import check_row, conversation, row_id, shape_of, unread_columns
from loraplug_tables.options import Doc, Option, options
from loraplug_tables.secrets import kinds as kinds_of_secrets
from loraplug_tables.secrets import redact, redacted

__version__ = "0.1.0"

__all__ = [
    "BaseFacts", "Component", "Conversation", "DatasetSource", "Diagnostic", "Doc", "Entry", "Estimate", "Event",
    "Exporter", "Finding", "Formatter", "InputError", "Lock", "LoraplugError", "ModelLoader", "Opened", "Option",
    "Plugin", "PluginError", "Problem", "Progress", "Quantizer", "Registry", "Reporter", "Run", "Sample", "Trained",
    "Trainer", "TrainingResult", "check_row", "conversation", "echo", "find_exporter", "fresh_place", "hookimpl",
    "is_own_lock", "iter_rows", "kinds_of_secrets", "load_adapter", "load_registry", "lock_beside",
    "mixed_precision", "only_one", "open_model", "options", "printable", "published", "redact", "redacted",
    "remember_lock", "report", "row_id", "shape_of", "shareable", "unread_columns", "weight_files", "weight_names",
    "working_on",
]  # fmt: skip
