"""Runs that can be killed, and what must be left of them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

WARM = Path(__file__).with_name("warm.py")


@attrs.define
class Job:
    """A run in a process of its own."""

    server: Server
    pid: int
    log: Path
    code: int | None = None

    def wait(self) -> int:
        """The exit code; negative for a signal."""
        if self.code is None:
            self.code = int(self.server.ask({"wait": self.pid}))
        return self.code

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal, and wait for the end."""
        os.kill(self.pid, number)
        return self.wait()

    def said(self) -> str:
        """Everything it has written to stdout and stderr."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Server:
    """The warm process."""

    def __init__(self) -> None:
        env = {name: value for name, value in os.environ.items() if name not in ("MODEL_ID", "RUN_NAME")}
        env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(WARM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, job: dict[str, Any]) -> str:
        """Send a job, take its answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def start(self, folder: Path, *words: object, **more: Any) -> Job:
        """Start `loraplug WORDS…` in `folder`; `more` as `warm.py` tells."""
        log = folder / f"log-{time.monotonic_ns()}"
        env = {"LORAPLUG_CACHE": str(folder / "cache")} | more.pop("env", {})
        job = {"start": [*map(str, words)], "folder": str(folder), "log": str(log), "env": env, **more}
        return Job(self, int(self.ask(job)), log)

    def run(self, folder: Path, *words: object, **more: Any) -> Job:
        """Start, and wait for the end."""
        job = self.start(folder, *words, **more)
        job.wait()
        return job

    def close(self) -> None:
        """End the warm process."""
        self.process.communicate()


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
