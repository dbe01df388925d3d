"""Reads the output of a sandboxed process with a size limit, and replies that cannot be forged."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import IO, Any

WORD = 32  # characters of a job's random word
_PART = 1 << 16


class Forged(Exception):  # noqa: N818 - it is no error of ours
    """The reply is not a valid answer to the job."""


def read_reply(line: bytes, word: str) -> dict[str, Any]:
    """The object of a reply: the job's word, a space, JSON, a line feed, and nothing else.

    Raises:
        Forged: anything differs.
    """
    head = word.encode() + b" "
    if not word or not line.startswith(head) or not line.endswith(b"\n") or line.count(b"\n") != 1:
        raise Forged("not an answer to this job")
    try:
        told = json.loads(line[len(head) :])
    except (ValueError, RecursionError):
        raise Forged("not JSON") from None
    if not isinstance(told, dict):
        raise Forged("not an object")
    return told


class Kept:
    """Keeps the first and last half of output that is too long."""

    def __init__(self, limit: int) -> None:
        self._limit = limit // 2
        self._head, self._tail = bytearray(), bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """Append a part."""
        self.total += len(data)
        room = self._limit - len(self._head)
        self._head += data[:room] if room > 0 else b""
        self._tail += data[max(room, 0) :]
        if len(self._tail) > 2 * self._limit + _PART:
            del self._tail[: -self._limit]

    @property
    def text(self) -> str:
        """The text, or its two ends with the number of omitted bytes."""
        tail = self._tail[-self._limit :] if self._limit else self._tail
        left = self.total - len(self._head) - len(tail)
        head = self._head.decode("utf-8", "replace")
        last = tail.decode("utf-8", "replace")
        return f"{head}\n[... {left} bytes ...]\n{last}" if left else (self._head + tail).decode("utf-8", "replace")


class Reader:
    """Reads a pipe in a thread of its own; `full` is called once where more than `most` bytes come."""

    def __init__(self, pipe: IO[bytes], take: Callable[[bytes], None], most: int, full: Callable[[], None]) -> None:
        self._pipe, self._take, self._most, self._full = pipe, take, most, full
        self.total = 0
        self.over = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        number = self._pipe.fileno()
        while True:
            try:
                data = os.read(number, _PART)
            except (OSError, ValueError):
                data = b""
            if data and not self.over:
                self.total += len(data)
                if self.total > self._most:
                    self.over = True
                    self._full()
            if not self.over or not data:
                self._take(data)
            if not data:
                return

    def join(self, seconds: float) -> None:
        """Wait for the end of the pipe."""
        self._thread.join(seconds)


class Line:
    """Collects bytes and gives lines; told of the end by an empty part."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ended = False
        self._news = threading.Condition()

    def take(self, data: bytes) -> None:
        """More bytes, or none any more."""
        with self._news:
            self._data += data
            self._ended |= not data
            if not data or b"\n" in data:
                self._news.notify_all()

    def get(self, seconds: float) -> bytes | None:
        """All there is up to and with the first line feed, and what came behind it, or None where none came in time."""
        deadline = time.monotonic() + seconds
        with self._news:
            while b"\n" not in self._data:
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    return None
                self._news.wait(left)
            data = bytes(self._data)
            self._data.clear()
            return data

    @property
    def waiting(self) -> bool:
        """Whether something came that nobody asked for, or the end."""
        with self._news:
            return bool(self._data) or self._ended


def close(process: subprocess.Popen[bytes]) -> None:
    """Close the pipes of a process that has ended."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue
