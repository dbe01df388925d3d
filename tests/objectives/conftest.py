"""A training of any trainer on the tiny model without recipe and formatter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loraplug import Encoded, Run, TrainingResult

Train = Callable[..., TrainingResult]


@pytest.fixture
def train(tiny_model: Path, tmp_path: Path) -> Train:
    """Trains in this process; `name` is the run's, `dtype` the base's, options are those of the trainer."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def run(kind: Any, rows: Any, held: Any = None, name: str = "a", dtype: str = "float32", **options: Any) -> Any:
        given = Run(name, outputs=tmp_path / "outputs")
        given.folder.mkdir(parents=True, exist_ok=True)
        settings = {"samples": 0, "learning_rate": 1e-2, "epochs": 2.0, "batch_size": 4, **options}
        trainer = kind(**settings)
        encoded = [
            None if some is None else Encoded(Dataset.from_list(some), trainer.consumes) for some in (rows, held)
        ]
        return trainer.train(
            given,
            lambda placement: AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype),
            AutoTokenizer.from_pretrained(tiny_model),
            *encoded,
        )

    return run


def losses(result: TrainingResult) -> list[float]:
    """The loss of each step."""
    lines = (result.path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines[:-1]]
