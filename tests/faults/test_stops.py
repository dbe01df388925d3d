"""Signals, full disks and disks that cannot be written: told in one block, and nothing lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from harness import Undisturbed, products, small_disk

from forked import Server

pytestmark = pytest.mark.slow
STAGES = ["dataset", "formatter", "model", "trainer", "exporter", "end:dataset", "end:model", "end:trainer"]


@pytest.mark.parametrize("stage", ["dataset", "formatter", "model", "trainer", "exporter"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_say_how_to_go_on(
    server: Server,
    job_recipe: Path,
    undisturbed: type[Undisturbed],
    tmp_path: Path,
    stage: str,
    number: signal.Signals,
    code: int,
) -> None:
    """ctrl-c and SIGTERM in every stage: an exit code that tells, a next step, and the same end afterwards."""
    stopped = server.run(tmp_path, "run", job_recipe, at=stage, do=int(number))
    assert stopped.wait() == code, stopped.said()
    assert re.search(r"next: run the same command to continue", stopped.said()) and "Traceback" not in stopped.said()
    assert server.run(tmp_path, "run", job_recipe).wait() == 0
    assert products(tmp_path) == undisturbed.products


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_fills_up(
    server: Server, job_recipe: Path, undisturbed: type[Undisturbed], tmp_path: Path, stage: str
) -> None:
    """Not a byte free from a stage on, for outputs and cache: told with the way out, and with room the run goes on."""
    with small_disk(tmp_path / "outputs", "50m") as disk:
        env = {"LORAPLUG_CACHE": str(disk / "cache"), "HF_DATASETS_CACHE": str(disk / "datasets")}
        full = server.run(tmp_path, "run", job_recipe, at=stage, do="fill", disk=str(disk), env=env)
        assert full.wait() == 1, full.said()
        assert re.search("No space left on device|Not enough disk space", full.said())
        assert "free disk space" in full.said()
        assert "Traceback" not in full.said() and "report" not in full.said()
        (disk / "filler").unlink()
        done = server.run(tmp_path, "run", job_recipe, env=env)
        assert done.wait() == 0, done.said()
        assert products(tmp_path) == undisturbed.products


def test_outputs_that_cannot_be_written(server: Server, job_recipe: Path, tmp_path: Path) -> None:
    """A disk mounted read-only: refused at once, before anything is loaded."""
    with small_disk(tmp_path / "outputs", "10m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        refused = server.run(tmp_path, "run", job_recipe)
        assert refused.wait() == 1
        assert "Read-only file system" in refused.said() and "next: " in refused.said()
        assert "dataset:" not in refused.said() and "Traceback" not in refused.said()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_outputs_without_permission(server: Server, job_recipe: Path, tmp_path: Path) -> None:
    """A folder that is not ours to write."""
    (tmp_path / "outputs").mkdir(mode=0o555)
    refused = server.run(tmp_path, "run", job_recipe)
    assert refused.wait() == 1
    assert "Permission denied" in refused.said() and "Traceback" not in refused.said()


@pytest.mark.parametrize("kind", ["adapters", "merged"])
def test_an_exporters_folder_that_cannot_be_written(
    server: Server, job_recipe: Path, undisturbed: type[Undisturbed], tmp_path: Path, kind: str
) -> None:
    """Found out before training, not after hours of it."""
    with small_disk(tmp_path / "outputs" / kind, "10m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        refused = server.run(tmp_path, "run", job_recipe)
        assert refused.wait() == 1
        assert "Read-only file system" in refused.said() and "training" not in refused.said()
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert server.run(tmp_path, "run", job_recipe).wait() == 0
        assert products(tmp_path) == undisturbed.products
