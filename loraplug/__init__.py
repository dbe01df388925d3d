"""loraplug: LoRA and QLoRA fine-tuning composed from plugins by one TOML recipe.

What is exported here is all a plugin needs.
"""

from typing import TYPE_CHECKING, Any

from loraplug.adapters.attach import attach_adapter
from loraplug.adapters.compat import names_as_saved
from loraplug.adapters.compat import refused as adapter_refused
from loraplug.adapters.coverage import FUSED as FUSED_EXPERTS
from loraplug.adapters.coverage import Share, adapted_share, expert_counts, layer_weights, quantised_share
from loraplug.adapters.load import load_adapter
from loraplug.adapters.names import model_names, save_adapter, settle_names
from loraplug.adapters.precision import computing_in, mixed_precision
from loraplug.adapters.tokens import grow_for_adapter, mark_new_tokens, new_tokens, token_ends
from loraplug.config.options import Doc, Option, options
from loraplug.config.secrets import kinds as kinds_of_secrets
from loraplug.config.secrets import own_secrets, redact, redacted
from loraplug.config.structure import as_toml
from loraplug.context import Event, Progress, Reporter, Run, published
from loraplug.data.chat_template import (
    CONTROL_TOKEN,
    OPEN_TOKENS,
    TemplateFaultError,
    control_tokens,
    end_of_turn,
    opened_tokens,
    render_plainly,
)
from loraplug.data.conversation import Conversation
from loraplug.data.mixture import Mix, Taken
from loraplug.data.nulls import iter_rows
from loraplug.data.preferences import Labelled, Preference, labelled, preference
from loraplug.data.schemas import (
    IGNORED,
    SCHEMAS,
    Encoded,
    Placement,
    Schema,
    TokenSequence,
    row_lengths,
    token_sequences,
)
from loraplug.data.shapes import check_row, conversation, row_id, shape_of, unread_columns
from loraplug.errors import InputError, LoraplugError, PluginError, Problem
from loraplug.files import atomic_output, exclusive_lock, wrap_os_errors
from loraplug.pipeline.distributed import Distributed
from loraplug.pipeline.reference import Lock, ModelReference, find_exporter, lock_beside, open_model
from loraplug.pipeline.transforms import transformed
from loraplug.plugin.components import (
    HOOKS,
    KINDS,
    Adapter,
    Component,
    DatasetSource,
    Exporter,
    Formatter,
    ModelLoader,
    Optimizer,
    Quantizer,
    Scheduler,
    Trainer,
    Transform,
    held,
)
from loraplug.plugin.contracts import API_VERSION
from loraplug.plugin.diagnostics import Diagnostic, Finding
from loraplug.plugin.handover import Artefact, BaseFacts, Estimate, ExportContext, Sample, TrainingResult
from loraplug.plugin.hookspecs import hookimpl
from loraplug.plugin.installed import Plugin
from loraplug.plugin.registry import Entry, Registry, load_registry, report
from loraplug.printing import echo, printable
from loraplug.provenance import PROVENANCE, Provenance, read_provenance, write_provenance
from loraplug.recipe.building import build
from loraplug.recipe.lock import as_table, require_secrets, shareable
from loraplug.recipe.own_locks import is_own as is_own_lock
from loraplug.recipe.own_locks import remember as remember_lock
from loraplug.recipe.recipe import DataSet, Plugins, Recipe, Validation
from loraplug.weights import weight_files, weight_names
from loraplug.workers import Crew, Job, Workers

if TYPE_CHECKING:
    from loraplug.app import App, RecipeCommand
    from loraplug.pipeline.event_log import EventLog
    from loraplug.pipeline.pipeline import Outcome, Pipeline
    from loraplug.pipeline.prompts import Prompter
    from loraplug.pipeline.records import RunRecord, duration, read_run, read_runs

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "CONTROL_TOKEN",
    "FUSED_EXPERTS",
    "HOOKS",
    "IGNORED",
    "KINDS",
    "OPEN_TOKENS",
    "PROVENANCE",
    "SCHEMAS",
    "Adapter",
    "App",
    "Artefact",
    "BaseFacts",
    "Component",
    "Conversation",
    "Crew",
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
    "ExportContext",
    "Exporter",
    "Finding",
    "Formatter",
    "InputError",
    "Job",
    "Labelled",
    "Lock",
    "LoraplugError",
    "Mix",
    "ModelLoader",
    "ModelReference",
    "Optimizer",
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
    "Provenance",
    "Quantizer",
    "Recipe",
    "RecipeCommand",
    "Registry",
    "Reporter",
    "Run",
    "RunRecord",
    "Sample",
    "Scheduler",
    "Schema",
    "Share",
    "Taken",
    "TemplateFaultError",
    "TokenSequence",
    "Trainer",
    "TrainingResult",
    "Transform",
    "Validation",
    "Workers",
    "__version__",
    "adapted_share",
    "adapter_refused",
    "as_table",
    "as_toml",
    "atomic_output",
    "attach_adapter",
    "build",
    "check_row",
    "computing_in",
    "control_tokens",
    "conversation",
    "duration",
    "echo",
    "end_of_turn",
    "exclusive_lock",
    "expert_counts",
    "find_exporter",
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
    "model_names",
    "names_as_saved",
    "new_tokens",
    "open_model",
    "opened_tokens",
    "options",
    "own_secrets",
    "preference",
    "printable",
    "published",
    "quantised_share",
    "read_provenance",
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
    "save_adapter",
    "settle_names",
    "shape_of",
    "shareable",
    "token_ends",
    "token_sequences",
    "transformed",
    "unread_columns",
    "weight_files",
    "weight_names",
    "wrap_os_errors",
    "write_provenance",
]  # fmt: skip

_LATER = {
    "app": ("App", "RecipeCommand"),
    "pipeline.event_log": ("EventLog",),
    "pipeline.pipeline": ("Outcome", "Pipeline"),
    "pipeline.prompts": ("Prompter",),
    "pipeline.records": ("RunRecord", "duration", "read_run", "read_runs"),
}


def __getattr__(name: str) -> Any:
    """Import what only the command line needs on first use, so that plugins load faster."""
    for module, names in _LATER.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(f"loraplug.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
