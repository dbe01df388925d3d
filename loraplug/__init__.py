"""loraplug: LoRA and QLoRA fine-tuning composed from plugins by one TOML recipe.

What is exported here is all a plugin needs.
"""

from typing import TYPE_CHECKING, Any

from loraplug.building import build
from loraplug.components import (
    HOOKS,
    KINDS,
    Adapter,
    Artefact,
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
    Transform,
    held,
)
from loraplug.context import Event, Progress, Reporter, Run, published
from loraplug.contracts import API_VERSION
from loraplug.diagnostics import Diagnostic, Finding
from loraplug.distributed import Distributed
from loraplug.errors import InputError, LoraplugError, PluginError, Problem
from loraplug.files import fresh_place, only_one, working_on
from loraplug.hookspecs import hookimpl
from loraplug.installed import Plugin
from loraplug.lock import as_table, require_secrets, shareable
from loraplug.mixing import Mix, Taken
from loraplug.open import Lock, Opened, find_exporter, lock_beside, open_model
from loraplug.printing import echo, printable
from loraplug.provenance import is_own as is_own_lock
from loraplug.provenance import remember as remember_lock
from loraplug.recipe import DataSet, Plugins, Recipe, Validation
from loraplug.registry import Entry, Registry, load_registry, report
from loraplug.schemas import IGNORED, SCHEMAS, Encoded, Placement, Schema, TokenSequence, row_lengths, token_sequences
from loraplug.transforms import transformed
from loraplug.weights import weight_files, weight_names
from loraplug_adapters.attach import attach_adapter
from loraplug_adapters.compat import refused as adapter_refused
from loraplug_adapters.coverage import FUSED as FUSED_EXPERTS
from loraplug_adapters.coverage import Share, adapted_share, expert_counts, layer_weights, quantised_share
from loraplug_adapters.load import load_adapter
from loraplug_adapters.precision import mixed_precision
from loraplug_adapters.tokens import grow_for_adapter, mark_new_tokens, new_tokens, token_ends
from loraplug_rows.chat_template import (
    CONTROL_TOKEN,
    OPEN_TOKENS,
    TemplateFaultError,
    control_tokens,
    end_of_turn,
    opened_tokens,
    render_plainly,
)
from loraplug_rows.conversation import Conversation
from loraplug_rows.nulls import iter_rows
from loraplug_rows.preferences import Labelled, Preference, labelled, preference
from loraplug_rows.shapes import check_row, conversation, row_id, shape_of, unread_columns
from loraplug_tables.options import Doc, Option, options
from loraplug_tables.secrets import kinds as kinds_of_secrets
from loraplug_tables.secrets import own_secrets, redact, redacted
from loraplug_tables.structure import as_toml

if TYPE_CHECKING:
    from loraplug.app import App
    from loraplug.event_log import EventLog
    from loraplug.prompts import Prompter
    from loraplug.records import RunRecord, duration, read_run, read_runs
    from loraplug.run import Outcome, Pipeline

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "CONTROL_TOKEN",
    "FUSED_EXPERTS",
    "HOOKS",
    "IGNORED",
    "KINDS",
    "OPEN_TOKENS",
    "SCHEMAS",
    "Adapter",
    "App",
    "Artefact",
    "BaseFacts",
    "Component",
    "Conversation",
    "DataSet",
    "DatasetSource",
    "Diagnostic",
    "Distributed",
    "Doc",
    "Encoded",
    "Entry",
    "Estimate",
    "Event",
    "EventLog",
    "Exporter",
    "Finding",
    "Formatter",
    "InputError",
    "Labelled",
    "Lock",
    "LoraplugError",
    "Mix",
    "ModelLoader",
    "Opened",
    "Option",
    "Outcome",
    "Pipeline",
    "Placement",
    "Plugin",
    "PluginError",
    "Plugins",
    "Preference",
    "Problem",
    "Progress",
    "Prompter",
    "Quantizer",
    "Recipe",
    "Registry",
    "Reporter",
    "Run",
    "RunRecord",
    "Sample",
    "Schema",
    "Share",
    "Taken",
    "TemplateFaultError",
    "TokenSequence",
    "Trained",
    "Trainer",
    "TrainingResult",
    "Transform",
    "Validation",
    "__version__",
    "adapted_share",
    "adapter_refused",
    "as_table",
    "as_toml",
    "attach_adapter",
    "build",
    "check_row",
    "control_tokens",
    "conversation",
    "duration",
    "echo",
    "end_of_turn",
    "expert_counts",
    "find_exporter",
    "fresh_place",
    "grow_for_adapter",
    "held",
    "hookimpl",
    "is_own_lock",
    "iter_rows",
    "kinds_of_secrets",
    "labelled",
    "layer_weights",
    "load_adapter",
    "load_registry",
    "lock_beside",
    "mark_new_tokens",
    "mixed_precision",
    "new_tokens",
    "only_one",
    "open_model",
    "opened_tokens",
    "options",
    "own_secrets",
    "preference",
    "printable",
    "published",
    "quantised_share",
    "read_run",
    "read_runs",
    "redact",
    "redacted",
    "remember_lock",
    "render_plainly",
    "report",
    "require_secrets",
    "row_id",
    "row_lengths",
    "shape_of",
    "shareable",
    "token_ends",
    "token_sequences",
    "transformed",
    "unread_columns",
    "weight_files",
    "weight_names",
    "working_on",
]  # fmt: skip

_LATER = {
    "App": "app", "EventLog": "event_log", "Outcome": "run", "Pipeline": "run", "RunRecord": "records",
    "duration": "records", "Prompter": "prompts",
    "read_run": "records", "read_runs": "records",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """What only the command line needs comes when it is asked for, so that plugins load sooner."""
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f"loraplug.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
