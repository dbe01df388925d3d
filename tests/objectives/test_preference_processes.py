"""Two processes train preferences as one would: started by torchrun on the CPU, talking through gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command import Cli

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["dpo", "kto", "grpo"])
def test_two_processes_do_what_one_does(kind: str, recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """Losses step by step, and validation; KTO's partners are those of the step, wherever they are computed."""
    rows: list[dict[str, Any]] = [{"prompt": f"what is {n} and one?", "task_id": str(n)} for n in range(12)]
    for n, row in enumerate(rows):
        good, bad = f"{n + 1}", "it is " * (n % 3 + 1)
        row |= {"chosen": good, "rejected": bad} if kind == "dpo" else {"completion": [good, bad][n % 2],
                                                                      "label": n % 2 == 0}  # fmt: skip
    if kind == "grpo":
        rows = [{"prompt_ids": [5, 6 + n], "completion_ids": [20 + n, 9, 30][: 1 + n % 3], "advantage": 0.5 + n % 3,
                 "old_log_probs": [-5.5] * (1 + n % 3), "group": "g", "task_id": str(n)}
                for n in range(12)]  # fmt: skip
    recipe.with_name("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe.write_text(recipe.read_text(encoding="utf-8").replace('use = "sft"', f'use = "{kind}"'), encoding="utf-8")
    figures = trained_twice(recipe, loraplug, tmp_path)
    assert len(figures[0]) == 6
    assert figures[1] == pytest.approx(figures[0], rel=1e-5)


def test_a_whole_model_is_trained_alike(recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """Each process has all of it, and gradients are summed."""
    text = recipe.read_text(encoding="utf-8").replace('[[exporter]]\nuse = "adapter"\n', "")
    text = text.replace("learning_rate = 1e-2\n", "learning_rate = 1e-3\n")
    recipe.write_text(text.replace("[[exporter]]", '[trainer.adapter]\nuse = "full"\n[[exporter]]'), encoding="utf-8")
    figures = trained_twice(recipe, loraplug, tmp_path)
    assert len(figures[0]) == 6
    assert figures[1] == pytest.approx(figures[0], rel=1e-5)


def trained_twice(recipe: Path, loraplug: Cli, tmp_path: Path) -> list[list[float]]:
    """Losses of steps and validation of a recipe, on one process and on two."""
    env = {**os.environ, "LORAPLUG_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    both = subprocess.run([*launcher, "-m", "loraplug", "run", str(recipe), "--set", "run_name=both"], cwd=tmp_path,
                          env=env, capture_output=True, text=True, timeout=900, check=False)  # fmt: skip
    assert both.returncode == 0, both.stdout + both.stderr
    one = loraplug("run", recipe, "--set", "run_name=one")
    assert one.returncode == 0, one.stderr
    figures = []
    for name in ("one", "both"):
        lines = (tmp_path / "outputs/runs" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        summary = json.loads(lines[-1])["summary"]
        figures.append([json.loads(line)["loss"] for line in lines[:-1]]
                       + [summary["validation_loss_before"], summary["validation_loss_after"]])  # fmt: skip
    return figures
