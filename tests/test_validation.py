"""`[validation] path`: which source reads it, with which options, and what is refused before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from command import Cli

Write = Callable[[str, str], None]


@pytest.fixture
def written(tmp_path: Path, recipe: Path) -> Write:
    """Puts another `[dataset]` and `[validation]` into the recipe."""

    def write(dataset: str, validation: str) -> None:
        text = recipe.read_text()
        text = text.replace('use = "jsonl"\npath = "rows.jsonl"', dataset).replace("rows = 3", validation)
        recipe.write_text(text)

    (tmp_path / "train.jsonl").write_text('{"q": "a", "a": "1"}\n{"q": "b", "a": "2"}\n')
    (tmp_path / "own.csv").write_text("instruction,response\nc,3\n")
    (tmp_path / "val.csv").write_text("q,a\nc,3\n")
    parts = {"train": [{"q": "a", "a": "1"}], "test": [{"q": "b", "a": "2"}, {"q": "c", "a": "3"}]}
    (tmp_path / "both.json").write_text(json.dumps(parts))
    splits = {name: Dataset.from_list(rows) for name, rows in parts.items()}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    splits["test"].to_parquet(tmp_path / "val.parquet")
    return write


TRAIN = 'use = "jsonl"\npath = "train.jsonl"\nlimit = 1\nrename = { q = "instruction", a = "response" }'
BOTH = 'use = "json"\npath = "both.json"\nfield = "train"\nrename = { q = "instruction", a = "response" }'
SAVED = 'use = "disk"\npath = "saved"\nrename = { q = "instruction", a = "response" }'


@pytest.mark.parametrize(
    ("dataset", "validation", "rows"),
    [
        (TRAIN, 'path = "val.csv"', 1),
        (TRAIN, 'path = "val.parquet"', 2),
        (TRAIN, 'path = ["val.csv"]', 1),
        (TRAIN, 'path = "own.csv"\nrename = {}', 1),
        (TRAIN, 'path = "both.json"\nfield = "test"', 2),
        (BOTH, 'path = "both.json"\nfield = "test"', 2),
        (SAVED, 'path = "saved"\nsplit = "test"', 2),
        (TRAIN, 'path = "saved"\nsplit = "test"', 2),
    ],
)
def test_it_is_read_as_the_training_rows_are(
    inside: Cli, recipe: Path, written: Write, dataset: str, validation: str, rows: int
) -> None:
    """Renamed alike, in whatever format, but for what `[validation]` says; the limit is that of training alone."""
    written(dataset, validation)
    done = inside("run", recipe, "--until", "formatter")
    assert done.returncode == 0, done.stderr
    assert f"validation: {rows} rows, shape instruction-response" in done.stderr


@pytest.mark.parametrize(
    ("dataset", "validation", "said"),
    [
        (TRAIN, 'path = "train.jsonl"', "validation.path: names the training rows themselves"),
        (BOTH, 'path = "both.json"', "validation.path: names the training rows themselves"),
        (TRAIN, 'path = "val.csv"\nfield = "x"', "validation.field: the source csv"),
        (TRAIN, 'fraction = 0.5\nrename = { a = "b" }', "rename applies to path"),
        (TRAIN, "path = []", "validation.path: expected a path"),
        (TRAIN, 'path = "val.csv"\nrename = { q = 3 }', "validation.rename"),
    ],
)
def test_what_cannot_be_is_refused_with_the_recipe(
    inside: Cli, recipe: Path, written: Write, dataset: str, validation: str, said: str
) -> None:
    """By `recipe check` already."""
    written(dataset, validation)
    done = inside("recipe", "check", recipe)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("validation", "said"),
    [
        ('path = "own.csv"', "[validation] may have its own rename, {} for none"),
        ('path = "val.csv"\nrename = {}', "validation.path: read by csv: rows of unknown shape"),
        ('path = "gone.jsonl"', "gone.jsonl: no such file or folder"),
        ('path = "empty.jsonl"', "has no rows"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    inside: Cli, recipe: Path, written: Write, tmp_path: Path, validation: str, said: str
) -> None:
    """Before anything is encoded, with the way out."""
    (tmp_path / "empty.jsonl").touch()
    written(TRAIN, validation)
    done = inside("run", recipe, "--until", "formatter")
    assert done.returncode == 2
    assert said in done.stderr
    assert "encoded" not in done.stderr


def test_paths_of_a_lock_file_are_relative(inside: Cli, recipe: Path, written: Write, tmp_path: Path) -> None:
    """Each of a list of files, and validation's, so that a lock file says nothing of the machine's folders."""
    written('use = "csv"\npath = ["val.csv", "../x.csv"]', 'path = ["own.csv"]')
    shown = inside("recipe", "show", recipe)
    assert 'path = [\n    "val.csv",\n    "../x.csv",\n]' in shown.stdout
    assert 'path = [\n    "own.csv",\n]' in shown.stdout
