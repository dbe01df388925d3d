"""The trainers that learn from judged answers: an objective each, on the engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    """Direct preference optimisation: the chosen answer gains on the rejected one, measured from the reference."""

    name = "dpo"
    consumes = "pairs"
    columns = frozenset()

    def check(self, recipe: Any) -> Iterable[Problem]:
        """Options that do not go together."""
        yield from self.option_problems()
        yield from EngineTrainer.check(self, recipe)


@frozen
class SimPoTrainer(SimPo, EngineTrainer):
    """SimPO: no reference; answers are held against each other by their mean log-probability a token, with a margin."""

    name = "simpo"
    consumes = "pairs"
    columns = frozenset()


@frozen
class OrpoTrainer(Orpo, EngineTrainer):
    """Odds ratio preference optimisation: no reference; the chosen conversation is learnt whole, prompt included."""

    name = "orpo"
    consumes = "pairs"
    columns = frozenset()


@frozen
class CpoTrainer(Cpo, EngineTrainer):
    """Contrastive preference optimisation: no reference; the chosen answer is learnt besides."""

    name = "cpo"
    consumes = "pairs"
    columns = frozenset()

    def check(self, recipe: Any) -> Iterable[Problem]:
        """Options that do not go together."""
        yield from self.option_problems()
        yield from EngineTrainer.check(self, recipe)


@frozen
class KtoTrainer(Kto, EngineTrainer):
    """Kahneman-Tversky optimisation: single answers, each wanted or not, measured from the reference."""

    name = "kto"
    consumes = "labelled"
    columns = frozenset()

    def check(self, recipe: Any) -> Iterator[Problem]:
        """Options that do not go together."""
        yield from self.option_problems()
        if self.loss_type == "kto" and self.tokens_per_step is None and self.batch_size < 2:
            what = "must be at least 2: a prompt is compared with the answers of other rows of its step"
            yield Problem("trainer.batch_size", f'{what}; or take loss_type = "apo_zero_unpaired"')
        yield from EngineTrainer.check(self, recipe)


@frozen
class GrpoTrainer(Grpo, EngineTrainer):
    """Group relative policy optimisation: answers become likelier by how much better they are than their group."""

    name = "grpo"
    consumes = "rollouts"
    columns = frozenset()

    def check(self, recipe: Any) -> Iterable[Problem]:
        """Options that do not go together."""
        yield from self.option_problems()
        yield from EngineTrainer.check(self, recipe)
