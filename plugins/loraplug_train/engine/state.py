"""The training state: trained parameters, optimizer and learning-rate scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen

from loraplug_train.engine.batches import MicroBatchLimits
from loraplug_train.engine.checkpoints import Checkpoint
from loraplug_train.engine.optimizers import flat_state, nested_state

FORMAT = 2
"""Format version of checkpoints; version 1 wrote none, and used transformers' scheduler."""


@frozen
class TrainingState:
    """The state that checkpoints store."""

    trained: Mapping[str, torch.nn.Parameter]
    optimizer: Any
    scheduler: Any
    limits: MicroBatchLimits

    def checkpoint(self, step: int, facts: Mapping[str, Any]) -> Checkpoint:
        """A copy of the state, with further facts."""
        tensors: dict[str, Any] = {f"adapter/{name}": parameter for name, parameter in self.trained.items()}
        values: dict[str, Any] = {}
        state = self.optimizer.state_dict()
        for name, value in flat_state(state["state"], "optimizer"):
            (tensors if torch.is_tensor(value) else values)[name] = value
        groups = [{**group, "params": list(group["params"])} for group in state["param_groups"]]
        ours = {
            "format": FORMAT,
            "optimizer": values,
            "groups": groups,
            "schedule": self.scheduler.state_dict(),
            "rows_at_once": self.limits.max_rows,
        }
        return Checkpoint(step, tensors, {**facts, **ours})

    def fits(self, kept: Checkpoint) -> bool:
        """Whether a checkpoint has the format and the parameters of this state."""
        same = all(f"adapter/{name}" in kept.tensors for name in self.trained)
        return same and kept.facts.get("format") == FORMAT

    def restore(self, kept: Checkpoint) -> None:
        """Restore everything from a checkpoint."""
        self.restore_parameters(kept)
        state = nested_state({**kept.tensors, **kept.facts["optimizer"]}, "optimizer")
        self.optimizer.load_state_dict({"state": state, "param_groups": kept.facts["groups"]})
        self.scheduler.load_state_dict(kept.facts["schedule"])
        self.limits.max_rows = kept.facts["rows_at_once"]

    def restore_parameters(self, kept: Checkpoint) -> None:
        """Restore the trained parameters only."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(kept.tensors[f"adapter/{name}"])
