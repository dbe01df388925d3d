"""The LoRA trainer."""

from collections.abc import Sequence

from loraplug import Trainer, hookimpl
from loraplug_train.trainer import Sft


@hookimpl
def loraplug_trainers() -> Sequence[type[Trainer]]:
    """The one trainer."""
    return [Sft]
