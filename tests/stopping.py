"""A training that is stopped in its midst."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Whatever trains inside is interrupted before this step is computed, steps counted from 0."""
    from loraplug_train.engine.step import StepComputer

    compute = StepComputer.compute

    def stopping(self: Any, rows: Any, done: int) -> Any:
        if done == step:
            raise KeyboardInterrupt
        return compute(self, rows, done)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StepComputer, "compute", stopping)
        yield
