"""Training: the engine that all objectives share, and the trainers on it.

What is exported here is for trainers of other packages: see `EngineTrainer`, `Objective` and `Engine`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loraplug import Adapter, Optimizer, Scheduler, Trainer, hookimpl
from loraplug_train.objectives.base import Batch, Objective, Policy, Row
from loraplug_train.trainer import EngineTrainer, Sft

if TYPE_CHECKING:
    from loraplug_train.engine.engine import Engine

__all__ = ["Batch", "Engine", "EngineTrainer", "Objective", "Policy", "Row"]


def __getattr__(name: str) -> Any:
    """Import the engine on first use: it imports torch."""
    if name == "Engine":
        from loraplug_train.engine.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@hookimpl
def loraplug_adapters() -> Sequence[type[Adapter]]:
    """What can be trained: LoRA, other methods of peft, the whole model."""
    from loraplug_train.adapters.full import Full
    from loraplug_train.adapters.lora import LoraAdapter
    from loraplug_train.adapters.peft_method import PeftMethod

    return [LoraAdapter, PeftMethod, Full]


@hookimpl
def loraplug_optimizers() -> Sequence[type[Optimizer]]:
    """Optimizers with options of their own."""
    from loraplug_train.optimizers import AdamW

    return [AdamW]


@hookimpl
def loraplug_schedulers() -> Sequence[type[Scheduler]]:
    """Courses of the learning rate with options of their own."""
    from loraplug_train.optimizers import Cosine, WarmupStableDecay

    return [Cosine, WarmupStableDecay]


@hookimpl
def loraplug_trainers() -> Sequence[type[Trainer]]:
    """The trainers, one for each objective."""
    from loraplug_train.preferences import CpoTrainer, DpoTrainer, GrpoTrainer, KtoTrainer, OrpoTrainer, SimPoTrainer

    return [Sft, DpoTrainer, SimPoTrainer, OrpoTrainer, CpoTrainer, KtoTrainer, GrpoTrainer]
