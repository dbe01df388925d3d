"""Commands in processes forked from a warm one (`warm.py`), so that each need not import torch anew.

A process of one's own, `python -m loraplug`, is left to the tests that need one: of what is imported when, of variables
that libraries read when they are imported, of packages found elsewhere, and of results that two processes, each with
its own hashing of texts, must share bit for bit.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

WARM = Path(__file__).with_name("warm.py")
# what no library reads before a command does
_AS_THE_COMMAND_LINE = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "LRU_CACHE_CAPACITY": "128",
    "OMP_NUM_THREADS": "1",  # not it: but a tiny model's products are too small to share
}  # before torch is loaded
_LATE = ("LORAPLUG_", "ACCELERATE_", "FSDP_", "PYTEST_", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "RANK", "LOCAL_RANK",
         "WORLD_SIZE", "PYTHONPATH", "LOCAL_WORLD_SIZE", "MASTER_", "MODEL_ID", "RUN_NAME")  # fmt: skip


def early(env: Mapping[str, str]) -> dict[str, str]:
    """Those variables that a library may read when it is imported."""
    return {**_AS_THE_COMMAND_LINE, **{name: value for name, value in env.items() if not name.startswith(_LATE)}}


@attrs.define
class Job:
    """A command in a process of its own."""

    server: Server
    pid: int
    out: Path
    err: Path
    code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.code is None and (answer := self.server.ask({"poll": self.pid})):
            self.code = int(answer)
        return self.code

    def wait(self, seconds: float = 600) -> int:
        """Wait for the exit code. What takes longer is killed, and fails the test."""
        until = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"not done after {seconds:.0f} s: {self.said()}")
            time.sleep(0.01)
        return code

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal, and wait for the end."""
        os.kill(self.pid, number)
        return self.wait()

    def said(self) -> str:
        """Everything it has written to stdout and stderr."""
        files = [self.out] if self.out == self.err else [self.out, self.err]
        return "".join(file.read_text(errors="replace") for file in files if file.exists())


class Server:
    """The warm process."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self.env = {**_AS_THE_COMMAND_LINE, **(os.environ if env is None else env)}
        for name in ("MODEL_ID", "RUN_NAME"):
            self.env.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, str(WARM)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self.env,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.files = Path(tempfile.mkdtemp(prefix="forked-"))

    def ask(self, job: Mapping[str, Any]) -> str:
        """Send a job, take its answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job, default=str) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def start(self, folder: Path, *words: object, env: Mapping[str, str] | None = None, **more: Any) -> Job:
        """Start `loraplug WORDS…`, or a `script`, in `folder`, with a log there; `more` as `warm.py` tells.

        Args:
            env: added to the server's; what libraries read when they are imported they have read.
        """
        log = str(folder / f"log-{time.monotonic_ns()}")
        env = {**self.env, "LORAPLUG_CACHE": str(folder / "cache"), **(env or {})}
        return self._start({"words": words, "folder": folder, "env": env, "out": log, "err": log, **more})

    def call(self, folder: Path, *words: object, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """`loraplug WORDS…` to its end; `env` is all of its environment."""
        out, err = (self.files / f"{time.monotonic_ns()}.{name}" for name in ("out", "err"))
        job = self._start({"words": words, "folder": folder, "env": env, "out": out, "err": err})
        return subprocess.CompletedProcess([*map(str, words)], job.wait(), out.read_text(), err.read_text())

    def _start(self, job: dict[str, Any]) -> Job:
        job["words"] = [*map(str, job["words"])]
        return Job(self, int(self.ask(job)), Path(job["out"]), Path(job["err"]))

    def run(self, folder: Path, *words: object, **more: Any) -> Job:
        """Start, and wait for the end."""
        job = self.start(folder, *words, **more)
        job.wait()
        return job

    def close(self) -> None:
        """End the warm process."""
        import shutil

        self.process.communicate()
        shutil.rmtree(self.files, ignore_errors=True)


@attrs.define
class Together:
    """Processes that work as one, told of each other as torchrun tells them; when one fails the others are ended."""

    jobs: list[Job]
    returncode: int | None = None

    def communicate(self, timeout: float = 600) -> tuple[str, None]:
        """Wait for the end of all; what they said, as of `subprocess.Popen`."""
        until = time.monotonic() + timeout
        while running := [job for job in self.jobs if job.poll() is None]:
            failed = [job for job in self.jobs if job.code]
            late = time.monotonic() > until
            for job in running if failed or late else ():
                os.kill(job.pid, signal.SIGKILL if late else signal.SIGTERM)
            time.sleep(0.05)
        self.returncode = next((job.code for job in self.jobs if job.code), 0)
        return "".join(job.said() for job in self.jobs), None


def together(
    server: Server, folder: Path, *words: object, processes: int = 2, env: Mapping[str, str] | None = None, **more: Any
) -> Together:
    """Start as many processes of a command or a script as torchrun would with `--nproc_per_node`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    jobs = []
    for rank in range(processes):
        own = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        jobs.append(server.start(folder, *words, env={**own, **(env or {})}, **more))
    return Together(jobs)
