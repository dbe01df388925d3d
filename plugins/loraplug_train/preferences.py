"""The trainers for preference data: one objective each, on the engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import frozen

from loraplug import Problem
from loraplug_train.objectives.cpo import Cpo
from loraplug_train.objectives.dpo import Dpo
from loraplug_train.objectives.grpo import Grpo
from loraplug_train.objectives.kto import Kto
from loraplug_train.objectives.orpo import Orpo
from loraplug_train.objectives.simpo import SimPo
from loraplug_train.trainer import EngineTrainer


@frozen
class DpoTrainer(Dpo, EngineTrainer):
    """Direct preference optimisation: raises the chosen answer over the rejected one, relative to a reference model."""

    name = "dpo"


@frozen
class SimPoTrainer(SimPo, EngineTrainer):
    """SimPO: no reference model; compares the answers' mean log-probabilities per token, with a margin."""

    name = "simpo"


@frozen
class OrpoTrainer(Orpo, EngineTrainer):
    """Odds ratio preference optimisation: no reference model; trains on the whole chosen conversation, prompt
    included.
    """

    name = "orpo"


@frozen
class CpoTrainer(Cpo, EngineTrainer):
    """Contrastive preference optimisation: no reference model; also trains on the chosen answer."""

    name = "cpo"


@frozen
class KtoTrainer(Kto, EngineTrainer):
    """Kahneman-Tversky optimisation: single answers, each labelled desirable or not, relative to a reference model."""

    name = "kto"

    def check(self, recipe: Any) -> Iterator[Problem]:
        """Options that cannot be combined."""
        if self.loss_type == "kto" and self.tokens_per_step is None and self.batch_size < 2:
            what = "must be at least 2: a prompt is compared with the answers of other rows of its step"
            yield Problem("trainer.batch_size", f'{what}; or set loss_type = "apo_zero_unpaired"')
        yield from EngineTrainer.check(self, recipe)


@frozen
class GrpoTrainer(Grpo, EngineTrainer):
    """Group relative policy optimisation: raises answers that are better than the others of their group."""

    name = "grpo"
