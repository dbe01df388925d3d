"""kill -9 at any moment of other trainings than sft's: the same command ends with the very same weights."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import products, stage_of

from forked import Server

pytestmark = pytest.mark.slow
KILLS, SEED = 30, 7


@pytest.fixture(params=["dpo", "grpo", "full"])
def job(request: pytest.FixtureRequest, recipe: Path) -> Path:
    """The tests' recipe with pairs, or with a whole model: steps enough for kills to meet training, and checkpoints."""
    if request.param == "full":
        whole = 'max_steps = 12\nsave_every = 2\n[trainer.adapter]\nuse = "full"\n'
        text = recipe.read_text(encoding="utf-8").replace("max_steps = 4\nlearning_rate = 1e-2\nsamples = 0\n", whole)
        assert whole in text
        recipe.write_text(text.replace('[[exporter]]\nuse = "adapter"\n', ""), encoding="utf-8")
        return recipe
    rows: list[dict[str, Any]] = [
            {"prompt": f"what is {n} and one?", "chosen": f"{n + 1}", "rejected": f"it is {n}", "task_id": str(n)}
            for n in range(12)]  # fmt: skip
    if request.param == "grpo":
        rows = [{"prompt_ids": [5, 6 + n], "completion_ids": [20 + n, 9, 30][: 1 + n % 3], "advantage": n % 2 - 0.4,
                 "old_log_probs": [-5.5] * (1 + n % 3), "group": "g", "task_id": str(n)}
                for n in range(12)]  # fmt: skip
    recipe.with_name("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    trainer = f'use = "{request.param}"\nmax_steps = 12\nsave_every = 2'
    text = recipe.read_text(encoding="utf-8").replace('use = "sft"\nmax_steps = 4', trainer)
    assert trainer in text
    recipe.write_text(text, encoding="utf-8")
    return recipe


def test_thirty_kills(server: Server, job: Path, tmp_path: Path) -> None:
    """Runs are killed once to three times each, at seeded random moments, then left alone; all end alike."""

    def fresh(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(job, folder / "recipe.toml")
        shutil.copy(tmp_path / "rows.jsonl", folder)
        return folder

    begun = time.monotonic()
    place = fresh("undisturbed")
    done = server.run(place, "run", "recipe.toml")
    assert done.wait() == 0, done.said()
    seconds, wanted = time.monotonic() - begun, products(place)
    assert wanted
    chance = random.Random(SEED)
    where: Counter[str] = Counter()
    number = 0
    while where.total() < KILLS:
        number += 1
        folder = fresh(f"run-{number}")
        for _ in range(min(chance.randint(1, 3), KILLS - where.total())):
            run = server.start(folder, "run", "recipe.toml")
            time.sleep(chance.uniform(0, seconds))
            if run.kill() == -signal.SIGKILL:
                where[stage_of(folder)] += 1
        done = server.run(folder, "run", "recipe.toml")
        assert done.wait() == 0, f"after kills in {where}: {done.said()}"
        assert products(folder) == wanted, f"run {number}, after kills in {where}"
    sys.stdout.write(f"\n{where.total()} kills in {number} runs survived: {dict(where)}; one run: {seconds:.1f} s\n")
    assert len(where) >= 3, "the kills met too few stages"
