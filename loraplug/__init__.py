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
from loraplug.errors import InputError, LoraplugError, PluginError, Problem
from loraplug.files import fresh_place, only_one, working_on
from loraplug.hookspecs import hookimpl
from loraplug.lock import shareable
from loraplug.open import Opened, find_exporter, open_model
from loraplug.registry import Entry, Registry, load_registry
from loraplug_adapters.attach import attach_adapter
from loraplug_adapters.compat import refused as adapter_refused
from loraplug_adapters.coverage import FUSED as FUSED_EXPERTS
from loraplug_adapters.coverage import Share, adapted_share, expert_counts, layer_weights, quantised_share
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
    "FUSED_EXPERTS",
    "BaseFacts",
    "Component",
    "Conversation",
    "DatasetSource",
    "Doc",
    "Entry",
    "Estimate",
    "Event",
    "Exporter",
    "Formatter",
    "InputError",
    "LoraplugError",
    "ModelLoader",
    "Opened",
    "Option",
    "PluginError",
    "Problem",
    "Progress",
    "Quantizer",
    "Registry",
    "Reporter",
    "Run",
    "Sample",
    "Share",
    "Trained",
    "Trainer",
    "TrainingResult",
    "adapted_share",
    "adapter_refused",
    "attach_adapter",
    "check_row",
    "conversation",
    "expert_counts",
    "find_exporter",
    "fresh_place",
    "hookimpl",
    "iter_rows",
    "kinds_of_secrets",
    "layer_weights",
    "load_adapter",
    "load_registry",
    "mixed_precision",
    "only_one",
    "open_model",
    "options",
    "published",
    "quantised_share",
    "redact",
    "redacted",
    "row_id",
    "shape_of",
    "shareable",
    "unread_columns",
    "working_on",
]  # fmt: skip
