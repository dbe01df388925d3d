"""`loraplug data`: rows of a source into a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import ROOT, Cli

RECIPE = ROOT / "recipes" / "swe_small.toml"


def test_every_format_holds_the_same_rows(loraplug: Cli, tmp_path: Path) -> None:
    """json, jsonl and parquet, read back."""
    from datasets import Dataset

    for ending in ("json", "jsonl", "parquet"):
        done = loraplug("data", RECIPE, "-o", f"rows.{ending}")
        assert done.returncode == 0, done.stderr
        assert "64 rows" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert json.loads((tmp_path / "rows.json").read_text()) == lines
    assert [dict(row) for row in Dataset.from_parquet(str(tmp_path / "rows.parquet"))] == lines
    assert lines[0].keys() >= {"instruction", "response", "task_id"}
    assert lines[0]["response"].startswith("diff --git ")


def test_shards_joined_are_the_whole_in_order(loraplug: Cli, tmp_path: Path) -> None:
    """Three machines make one data set."""
    loraplug("data", RECIPE, "-o", "whole.jsonl")
    for shard in (1, 2, 3):
        assert loraplug("data", RECIPE, "-o", f"{shard}.jsonl", "--shard", f"{shard}/3").returncode == 0
    joined = b"".join((tmp_path / f"{shard}.jsonl").read_bytes() for shard in (1, 2, 3))
    assert joined == (tmp_path / "whole.jsonl").read_bytes()


def test_rejects_lie_beside_the_output(loraplug: Cli, tmp_path: Path) -> None:
    """A task that makes no row is named there, with its reason."""
    (tmp_path / "tasks").mkdir()
    good = (ROOT / "data" / "sample_tasks" / "task_1.json").read_text()
    (tmp_path / "tasks" / "task_1.json").write_text(good)
    empty = json.loads(good)
    empty["bug"]["patch"] = empty["original"]["gold_patch"] = ""
    (tmp_path / "tasks" / "task_2.json").write_text(json.dumps(empty))
    done = loraplug("data", RECIPE, "-o", "out.jsonl", "--set", "dataset.tasks=tasks")
    assert done.returncode == 0, done.stderr
    (reject,) = map(json.loads, (tmp_path / "out.rejects.jsonl").read_text().splitlines())
    assert reject["reason"]
    assert "1 left out" in done.stderr


@pytest.mark.parametrize(("output", "said"), [("rows.csv", 'unknown ending ".csv"'), ("rows", 'unknown ending ""')])
def test_an_unknown_ending_is_refused(loraplug: Cli, output: str, said: str) -> None:
    """Before any work is done."""
    done = loraplug("data", RECIPE, "-o", output)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_recipe_of_a_data_set_alone_will_do(loraplug: Cli, tmp_path: Path) -> None:
    """No name, no model, and whatever is wrong elsewhere; what is wrong in [dataset] is told."""
    (tmp_path / "rows.csv").write_text("text,id\na,007\n")
    (tmp_path / "r.toml").write_text('[dataset]\nuse = "csv"\npath = "rows.csv"\n[trainer]\nuse = "nothing"\n')
    done = loraplug("data", "r.toml", "-o", "rows.jsonl")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == {"text": "a", "id": "007"}
    done = loraplug("data", "r.toml", "-o", "rows.jsonl", "--set", "dataset.delimeter=;")
    assert done.returncode == 2
    assert "dataset.delimeter: unknown key (did you mean delimiter?)" in done.stderr
    (tmp_path / "r.toml").write_text('run_name = "../x"\n')
    done = loraplug("data", "r.toml", "-o", "rows.jsonl")
    assert "dataset: missing table" in done.stderr
    assert "run_name: " in done.stderr
