"""Pipes of the process that runs tests, and the end of what a job left behind.

A part of `worker.py`, under its rules: loaded by its path, importing nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

WORD = 32  # characters of a job's random word
MOST = 64 << 20  # bytes of what a job's process says
PIPES: list[int] = []
"""Descriptors to whoever asks; closed in every process that runs code under test."""

Say = dict[str, Any]


def read_exactly(number: int, size: int) -> bytes | None:
    """So many bytes and not one more, or None at the end."""
    data = b""
    while len(data) < size:
        part = os.read(number, size - len(data))
        if not part:
            return None
        data += part
    return data


def reply(asked: int, out: int, told: Say) -> None:
    """One line to whoever asked, with the word that came behind the job: it is read when the job is over."""
    word = read_exactly(asked, WORD)
    if word is None:
        sys.exit(0)
    write_all(out, word + b" " + json.dumps(told).encode() + b"\n")


def write_all(number: int, data: bytes) -> None:
    """All of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


def private(on: bool) -> None:
    """Let no process of the same user read this one's memory or open its descriptors; Linux."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(4, ctypes.c_ulong(not on), 0, 0, 0)  # PR_SET_DUMPABLE


def keep_pipes() -> tuple[int, int]:
    """The real stdin and stdout under numbers of their own; tests read nothing, and what they write goes nowhere."""
    asked, out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    PIPES[:] = [asked, out]
    return asked, out


def parsed(text: bytes) -> Say:
    """What a job's process said: one object, or nothing that counts."""
    if not text:
        return {"verdict": "crash"}
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {"verdict": "void"}
    return said if isinstance(said, dict) and text.count(b"\n") == 1 else {"verdict": "void"}


def read_until(pipe: int, deadline: float, close: bool = True) -> tuple[bytes, str]:
    """One line out of a pipe, and what was over before its end: `time` or `output`, or nothing."""
    parts, size = [], 0
    try:
        while (left := deadline - time.monotonic()) > 0:
            if sys.platform == "win32" or select.select([pipe], [], [], left)[0]:
                part = os.read(pipe, 1 << 16)
                parts.append(part)
                size += len(part)
                if size > MOST:
                    return b"", "output"
                if not part or part.endswith(b"\n"):  # a child of the tests may keep the pipe open
                    return b"".join(parts), ""
        return b"", "time"
    finally:
        if close:
            os.close(pipe)


def wait(child: int, deadline: float) -> int | None:
    """The status that a child ended with, or None where it does not end in time."""
    pause = 0.0002
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    return done[1]


def end_strays() -> None:
    """End what a job left behind, where this process and its first one are all that may be in the process table."""
    if sys.platform == "win32" or not own_table():
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)  # all but the first process and this one, in one go
    deadline = time.monotonic() + 5.0
    while any(name.isdecimal() and name not in ("1", str(os.getpid())) for name in os.listdir("/proc")):  # noqa: PTH208
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        if time.monotonic() > deadline:
            os._exit(1)  # and the jail ends with this process
        time.sleep(0.0005)


@lru_cache(1)
def own_table() -> bool:
    """Whether the first process this one sees is the jail's."""
    try:
        return os.getppid() == 1 and b"/isolate\0" in Path("/proc/1/cmdline").read_bytes()
    except OSError:
        return False
