"""Runs that can be killed, and what must be left of them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forked import Job


class Undisturbed:
    """What a run that nothing happened to has made, and how long it took; kept for the whole session."""

    products: dict[str, str] | None = None
    seconds = 0.0


def products(folder: Path) -> dict[str, str]:
    """sha256 of every weight file a finished run has left, and nothing half-made beside them."""
    outputs = folder / "outputs"
    left = [path for path in outputs.rglob(".*") if path.name.endswith((".new", ".old"))]
    assert not left, left
    found = sorted([*outputs.rglob("adapters/**/*.safetensors"), *outputs.rglob("merged/**/*.safetensors")])
    return {str(path.relative_to(outputs)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def stage_of(folder: Path, name: str = "tiny") -> str:
    """The stage a killed run was in, by its events."""
    path = folder / "outputs/runs" / name / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    stages = [event for event in events if event["event"].startswith("stage-")]
    return f"{stages[-1]['stage']}{'' if stages[-1]['event'] == 'stage-start' else ' done'}" if stages else "start"


def wait_for(folder: Path, words: str, job: Job, name: str = "tiny", seconds: float = 60) -> None:
    """Wait until the run's events hold `words`."""
    path = folder / "outputs/runs" / name / "events.jsonl"
    until = time.monotonic() + seconds
    while not (path.exists() and words in path.read_text()):
        assert time.monotonic() < until, job.said()
        time.sleep(0.01)


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A real disk of `size` at `place`; skips the test where none can be mounted."""
    import shutil

    import pytest

    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
