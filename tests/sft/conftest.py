"""A training on the tiny model without recipe and formatter: rows of random words, as token ids and labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sft_rows import encoded

from loraplug import Encoded, Run, TrainingResult
from loraplug_train.trainer import Sft


@pytest.fixture
def train(tiny_model: Path, tmp_path: Path) -> Callable[..., TrainingResult]:
    """Trains in this process; `name` is the run's, `dtype` the base's, options are those of the trainer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def run(
        name: str = "a", rows: Any = None, held: Any = None, dtype: str = "float32", **options: Any
    ) -> TrainingResult:
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        given = Run(name, outputs=tmp_path / "outputs")
        given.folder.mkdir(parents=True, exist_ok=True)
        run.reporter = given.reporter  # type: ignore[attr-defined]
        settings = {"samples": 0, "learning_rate": 1e-2, "epochs": 2.0, "batch_size": 4, **options}
        watched = None if held is None else Encoded(held)
        load = settings.pop("load_model", lambda _: model)
        return Sft(**settings).train(given, load, tokenizer, Encoded(rows or encoded(14)), watched)

    return run
