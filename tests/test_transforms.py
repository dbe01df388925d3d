"""`[[dataset.transform]]`: rows out of rows, in order, counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command import Cli
from loraplug import App, InputError, Run, load_registry
from loraplug.testing import from_table, tiny_run
from loraplug_data.transforms import Rename, Sample, Shuffle
from loraplug_tools.plugins.conformance import assert_conforms

TRANSFORMS = """
[[dataset.transform]]
use = "rename"
columns = { instruction = "prompt", response = "completion" }
[[dataset.transform]]
use = "shuffle"
[[dataset.transform]]
use = "sample"
rows = 5
"""


@pytest.fixture
def transformed(recipe: Path) -> Path:
    """The tiny recipe with three transforms."""
    recipe.write_text(recipe.read_text().replace("[formatter]", f"{TRANSFORMS}[formatter]", 1))
    return recipe


def rows(count: int = 20) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"text": [f"row {n}" for n in range(count)]})


@pytest.mark.parametrize("part", [Rename({"text": "words"}), Shuffle(), Sample(rows=2), Sample(fraction=0.5)], ids=str)
def test_they_conform(part: Any, tmp_path: Path) -> None:
    """All that is asked of any transform."""
    assert_conforms(part, tmp_path)


def test_what_is_drawn_follows_from_the_seed(tmp_path: Path) -> None:
    """Of the run, or one of its own; a sample keeps the order, a shuffle keeps the rows."""
    run, other = tiny_run(tmp_path), Run("other", 7)
    shuffled = Shuffle().apply(rows=rows(), run=run)["text"]
    assert shuffled != rows()["text"]
    assert sorted(shuffled) == sorted(rows()["text"])
    assert Shuffle().apply(rows=rows(), run=other)["text"] != shuffled
    assert Shuffle(seed=42).apply(rows=rows(), run=other)["text"] == shuffled
    sampled = [int(text[4:]) for text in Sample(fraction=0.25).apply(rows=rows(), run=run)["text"]]
    assert len(sampled) == 5
    assert sampled == sorted(sampled)


@pytest.mark.parametrize("table", [{}, {"rows": 1, "fraction": 0.5}, {"rows": 0}, {"fraction": 1.0}, {"rows": 1.5}])
def test_what_can_be_read_two_ways_is_refused(table: dict[str, Any]) -> None:
    """A sample needs exactly one size."""
    made, problems = from_table(Sample, table)
    assert made is None
    assert problems


def test_more_rows_than_there_are(tmp_path: Path) -> None:
    """Fewer would be a silent change of what was asked for."""
    with pytest.raises(InputError, match="21 rows are requested, but there are only 20"):
        Sample(rows=21).apply(rows=rows(), run=tiny_run(tmp_path))


def test_a_run_counts_what_goes_through(transformed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, before rows are held out; the lock has them, and observers are told."""
    from loraplug import as_table

    monkeypatch.chdir(transformed.parent)
    app = App()
    pipeline = app.pipeline(transformed)
    events: list[tuple[str, str]] = []
    said: list[str] = []
    monkeypatch.setattr(type(pipeline.run.reporter), "say", lambda _, text: said.append(text))
    object.__setattr__(pipeline.run, "observe", lambda event: events.append((event.kind, event.data["component"])))
    found = pipeline.load_rows()
    assert set(found.column_names) >= {"prompt", "completion"}
    assert len(found) == 5
    assert said[:3] == ["rename: 12 rows", "shuffle: 12 rows", "sample: 5 of 12 rows"]
    assert said[3].startswith("dataset: 5 rows")
    assert ("stage-end", "shuffle") in events
    assert found.to_list() == app.pipeline(transformed).load_rows().to_list()
    table = as_table(pipeline.recipe, load_registry())["dataset"]["transform"]
    assert [part["use"] for part in table] == ["rename", "shuffle", "sample"]


def test_validation_rows_of_their_own_are_changed_alike(transformed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go through what changes rows, not through what chooses among the training rows."""
    monkeypatch.chdir(transformed.parent)
    (transformed.parent / "held.jsonl").write_text('{"instruction": "a", "response": "b"}\n' * 8)
    transformed.write_text(transformed.read_text().replace("rows = 3", 'path = "held.jsonl"'))
    pipeline = App().pipeline(transformed)
    _, validation = pipeline.split_rows(pipeline.load_rows())
    assert validation is not None
    assert len(validation) == 8
    assert "prompt" in validation.column_names


def test_the_rows_of_loraplug_data_are_transformed(inside: Cli, transformed: Path, tmp_path: Path) -> None:
    """What it writes is what is trained on."""
    done = inside("data", transformed, "-o", "rows.json")
    assert done.returncode == 0, done.stderr
    assert "5 rows in " in done.stdout
    assert all({"prompt", "completion"} <= row.keys() for row in json.loads((tmp_path / "rows.json").read_text()))
    assert "transform  rename, shuffle, sample" in inside("recipe", "check", transformed).stdout


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('[dataset.transform]\nuse = "shuffle"', "dataset.transform: expected a list of tables"),
        ('[[dataset.transform]]\nuse = "shufle"', "dataset.transform[0].use: no transform named"),
        ('[[dataset.transform]]\nuse = "sample"', "dataset.transform[0]: needs exactly one of rows and fraction"),
        (
            '[[dataset.transform]]\nuse = "sample"\nrow = 1',
            "dataset.transform[0].row: unknown key (did you mean rows?)",
        ),
        ('[[dataset.transform]]\nuse = "rename"\ncolumns = { gone = "x" }', 'no column "gone" in the data'),
    ],
)
def test_what_is_wrong_is_told_with_its_place(inside: Cli, recipe: Path, table: str, told: str) -> None:
    """Before anything is loaded, but for what only the rows can tell."""
    recipe.write_text(recipe.read_text().replace("[formatter]", f"{table}\n[formatter]", 1))
    done = inside("data", recipe, "-o", "rows.json")
    assert done.returncode == 2
    assert told in done.stderr
