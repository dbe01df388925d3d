"""loraplug: LoRA and QLoRA fine-tuning composed from plugins by one TOML recipe.

What is exported here is all a plugin needs.
"""

from loraplug.components import (
    Component,
    DatasetSource,
    Doc,
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
from loraplug.context import Event, Run
from loraplug.errors import InputError, LoraplugError, PluginError, Problem
from loraplug.hookspecs import hookimpl
from loraplug.rows import Conversation, conversation, row_id, shape_of

__version__ = "0.1.0"

__all__ = [
    "Component",
    "Conversation",
    "DatasetSource",
    "Doc",
    "Estimate",
    "Event",
    "Exporter",
    "Formatter",
    "InputError",
    "LoraplugError",
    "ModelLoader",
    "PluginError",
    "Problem",
    "Quantizer",
    "Run",
    "Sample",
    "Trained",
    "Trainer",
    "TrainingResult",
    "conversation",
    "hookimpl",
    "row_id",
    "shape_of",
]
