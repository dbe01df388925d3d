"""Rows that are too long for a round's formatter do not stop the round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loraplug import InputError, Pipeline, load_registry
from loraplug.app import App
from loraplug_swe.improve.fitting import fitting

SHORT = [{"instruction": f"what is {n} and one?", "response": f"{n + 1}"} for n in range(4)]
LONG = {"instruction": "why? " * 400, "response": "so"}


@pytest.fixture
def pipeline(recipe: Path) -> Pipeline:
    """Of a recipe whose formatter stops the run where one row in four is too long."""
    return App(load_registry()).pipeline(recipe, ("formatter.max_dropped=0.2",))


def test_rows_that_fit_are_all_kept(pipeline: Pipeline) -> None:
    """In their order; no rows are no rows."""
    assert fitting(pipeline)(SHORT) == SHORT
    assert fitting(pipeline)([]) == []


@pytest.mark.parametrize("at", [0, 2])
def test_rows_that_are_too_long_are_left_out(pipeline: Pipeline, at: int) -> None:
    """Whether or not so many would stop a run; where all are, nothing is left."""
    rows: list[dict[str, Any]] = [*SHORT[:at], LONG, *SHORT[at:], LONG]
    encoded = pipeline.recipe.formatter
    with pytest.raises(InputError, match="2 of 6 rows cannot be used"):
        from datasets import Dataset

        tokenizer = pipeline.load_tokenizer()
        encoded.encode(rows=Dataset.from_list(rows), tokenizer=tokenizer, run=pipeline.run, schema="tokens")
    fit = fitting(pipeline)
    assert fit(rows) == SHORT
    assert fit([*SHORT, *SHORT, LONG]) == [*SHORT, *SHORT]
    assert fit([LONG, LONG]) == []
