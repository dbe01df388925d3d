"""Training: the engine that all objectives share, and the trainers on it.

What is exported here is for trainers of other packages: see `EngineTrainer`, `Objective` and `Engine`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loraplug import Adapter, Trainer, hookimpl
from loraplug_train.objectives.base import Batch, Objective, Policy, Row
from loraplug_train.trainer import EngineTrainer, Sft

if TYPE_CHECKING:
    from loraplug_train.engine.engine import Engine

__all__ = ["Batch", "Engine", "EngineTrainer", "Objective", "Policy", "Row"]


def __getattr__(name: str) -> Any:
    """The engine brings torch, so it comes when it is asked for."""
    if name == "Engine":
        from loraplug_train.engine.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@hookimpl
def loraplug_adapters() -> Sequence[type[Adapter]]:
    """What is trained in place of LoRA."""
    from loraplug_train.adapters.full import Full
    from loraplug_train.adapters.peft_method import PeftMethod

    return [PeftMethod, Full]


@hookimpl
def loraplug_trainers() -> Sequence[type[Trainer]]:
    """The trainers, one for each objective."""
    from loraplug_train.preferences import CpoTrainer, DpoTrainer, GrpoTrainer, KtoTrainer, OrpoTrainer, SimPoTrainer

    return [Sft, DpoTrainer, SimPoTrainer, OrpoTrainer, CpoTrainer, KtoTrainer, GrpoTrainer]
