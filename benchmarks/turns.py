"""Trainers in separate processes that take steps in turn, so that load on the machine affects all of them alike.

A child calls `Gate.open` where its training begins and `Gate.step` after every optimizer step; both hold it until the
parent gives it the next turn. Peak memory is the child's own `VmHWM`; CPU time is that of all its threads. A child that
waits gives freed memory back to the system, or the sides together would need the sum of their peaks.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Gate:
    """The child's side. What libraries print goes to stderr."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.libc = ctypes.CDLL(None)

    def open(self, **facts: Any) -> None:
        """Everything is loaded; the first step may begin."""
        self._send(ready=True, **facts)

    def step(self, **figures: Any) -> None:
        """A step is done. `figures` go to the parent with what the step took."""
        self._send(wall=time.perf_counter() - self.wall, cpu=time.process_time() - self.cpu, **figures)

    def _send(self, **line: Any) -> None:
        self.out.write(json.dumps(line | {"peak": memory("VmHWM"), "now": memory("VmRSS")}) + "\n")
        self.out.flush()
        self.libc.malloc_trim(0)
        if not sys.stdin.readline():  # the parent has seen enough
            os._exit(0)
        self.wall, self.cpu = time.perf_counter(), time.process_time()


def memory(name: str, pid: int | str = "self") -> int:
    """A line of /proc/PID/status in bytes: VmHWM (the most that was ever resident), VmRSS, RssAnon."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


@dataclass
class Side:
    """The parent's view of one child: its process and the figures of its steps."""

    name: str
    process: subprocess.Popen[str]
    steps: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    ended: str = ""

    @classmethod
    def start(cls, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Side:
        """Start a child; what it prints goes to `log`."""
        with log.open("w") as file:
            pipe = subprocess.PIPE
            environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", **(env or {})}
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=file, text=True, env=environment)
        return cls(name, process)

    def ready(self) -> bool:
        """Wait until the child stands at its gate."""
        self.facts = self._read() or {}
        return bool(self.facts)

    def turn(self) -> bool:
        """Let the child take a step; False once it has none left."""
        if self.ended:
            return False
        with contextlib.suppress(BrokenPipeError):  # killed while it waited: reading tells
            self.process.stdin.write("go\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
        line = self._read()
        if line is not None:
            self.steps.append(line)
        return line is not None

    def _read(self) -> dict[str, Any] | None:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            self.ended = f"ended with exit code {self.process.wait()}"
        return json.loads(line) if line else None

    def stop(self) -> None:
        """End the child where it stands."""
        if not self.ended:
            self.process.kill()
            self.process.wait()

    def sum(self, key: str, steps: slice = slice(None)) -> float:
        """A figure, summed over steps."""
        return sum(step[key] for step in self.steps[steps])


def in_turn(sides: Sequence[Side], steps: int) -> None:
    """A step of every side, `steps` times: A B C, then C B A, so that nobody always follows the same neighbour.

    Ctrl-C or SIGTERM ends it after the last step that all have taken.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for side in sides:
            if not side.ready():
                print(f"{side.name}: {side.ended}; see its log", file=sys.stderr)
        for number in range(steps):
            for side in sides if number % 2 == 0 else reversed(sides):
                if side.turn():
                    step = side.steps[-1]
                    told = f"{step['wall']:.1f} s, {step['cpu']:.1f} s CPU, peak {step['peak'] / 1e9:.2f} GB"
                    print(f"{number + 1}/{steps} {side.name}: {told}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    except KeyboardInterrupt:
        taken = min(len(side.steps) for side in sides if side.steps)
        for side in sides:
            del side.steps[taken:]
    for side in sides:
        side.stop()
