"""kill -9 at any moment: the same command goes on and ends with the very same weights."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from harness import Undisturbed, products, stage_of, wait_for

from forked import Server

pytestmark = pytest.mark.slow
KILLS, SEED = 30, 20


def test_thirty_kills(server: Server, job_recipe: Path, undisturbed: type[Undisturbed], tmp_path: Path) -> None:
    """Runs are killed once to three times each, at seeded random moments, then left alone; all end alike."""
    chance = random.Random(SEED)
    text = job_recipe.read_text(encoding="utf-8")
    where: Counter[str] = Counter()
    number = 0
    while where.total() < KILLS:
        number += 1
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        (folder / "recipe.toml").write_text(text, encoding="utf-8")
        (folder / "rows.jsonl").write_bytes((tmp_path / "rows.jsonl").read_bytes())
        for _ in range(min(chance.randint(1, 3), KILLS - where.total())):
            job = server.start(folder, "run", "recipe.toml")
            time.sleep(chance.uniform(0, undisturbed.seconds))
            if job.kill() == -signal.SIGKILL:
                where[stage_of(folder)] += 1
        done = server.run(folder, "run", "recipe.toml")
        assert done.wait() == 0, f"after kills in {where}: {done.said()}"
        assert products(folder) == undisturbed.products, f"run {number}, after kills in {where}"
    sys.stdout.write(
        f"\n{where.total()} kills in {number} runs survived: {dict(where)}; one run: {undisturbed.seconds:.1f} s\n"
    )
    assert len(where) >= 3, "the kills met too few stages"


@pytest.mark.parametrize("stage", ["dataset", "formatter", "model", "trainer", "exporter", "end:trainer"])
def test_a_kill_at_the_very_start_of_each_stage(
    server: Server, job_recipe: Path, undisturbed: type[Undisturbed], tmp_path: Path, stage: str
) -> None:
    """The borders between stages, where a random moment seldom falls."""
    killed = server.run(tmp_path, "run", job_recipe, at=stage, do=signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    done = server.run(tmp_path, "run", job_recipe)
    assert done.wait() == 0, done.said()
    assert products(tmp_path) == undisturbed.products


def test_data_changed_between_kill_and_restart(
    server: Server, job_recipe: Path, undisturbed: type[Undisturbed], tmp_path: Path
) -> None:
    """Refused with the reason, and nothing is lost: with the old data back the run goes on to the same end."""
    rows = tmp_path / "rows.jsonl"
    before = rows.read_bytes()
    job = server.start(tmp_path, "run", job_recipe)
    wait_for(tmp_path, '"stage": "trainer"', job)
    assert job.kill() == -signal.SIGKILL
    rows.write_bytes(before.replace(b"what is 5", b"what was 5"))
    refused = server.run(tmp_path, "run", job_recipe)
    assert refused.wait() == 2
    assert "data has changed since this run began" in refused.said() and "Traceback" not in refused.said()
    rows.write_bytes(before)
    assert server.run(tmp_path, "run", job_recipe).wait() == 0
    assert products(tmp_path) == undisturbed.products


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_two_runs_of_one_name_at_once(
    server: Server, job_recipe: Path, undisturbed: type[Undisturbed], tmp_path: Path, fresh: list[str]
) -> None:
    """The second is refused, even where it would start over; the first ends as if alone."""
    first = server.start(tmp_path, "run", job_recipe)
    wait_for(tmp_path, "stage-start", first)
    second = server.run(tmp_path, "run", job_recipe, *fresh)
    assert second.wait() == 2, second.said()
    assert "another run of this name is in progress" in second.said()
    assert first.wait() == 0, first.said()
    assert products(tmp_path) == undisturbed.products


def test_a_checkpoint_cut_short(
    server: Server, job_recipe: Path, undisturbed: type[Undisturbed], tmp_path: Path
) -> None:
    """The newest checkpoint's largest file ends half-way: the one before is used, and the end is the same."""
    if "save_every" not in job_recipe.read_text(encoding="utf-8"):
        pytest.skip("this trainer makes no checkpoints")
    job = server.start(tmp_path, "run", job_recipe)
    wait_for(tmp_path, '"step": 9', job)
    assert job.kill() == -signal.SIGKILL
    saved = sorted(path for path in (tmp_path / "outputs/runs/tiny/checkpoints").iterdir() if path.name[0] != ".")
    assert len(saved) >= 2
    largest = max((path for path in saved[-1].rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    done = server.run(tmp_path, "run", job_recipe)
    assert done.wait() == 0, done.said()
    assert saved[-1].name in done.said()
    assert products(tmp_path) == undisturbed.products
