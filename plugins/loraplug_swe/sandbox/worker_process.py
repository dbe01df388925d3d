"""A sandboxed worker process: runs job after job over a pipe, authenticated by a secret per job."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from loraplug_swe.sandbox.channel import WORD, Forged, Kept, Line, Reader, close, read_reply
from loraplug_swe.sandbox.ending import end
from loraplug_swe.sandbox.sandbox import Sandbox

SPARE = 30.0
"""Seconds for a worker to start, beyond what its tests may take."""
_GRACE = 5.0  # seconds for the last output of a process that has ended
_WORDS = 4_000  # bytes of a worker's stderr that are kept


class Worker:
    """A process of `worker.py` or `command_worker.py` in a box, and its pipes: a context manager; else close it."""

    def __init__(self, box: Sandbox, command: Sequence[str], env: Mapping[str, str]) -> None:
        own = {name: value for name, value in env.items() if name != "PYTHONPATH"}  # none of the tree's code runs in it
        self._process = subprocess.Popen(
            box.command(command), cwd=box.tree, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None and self._process.stderr is not None  # noqa: S101 - for the types
        self._line, self._words, most = Line(), Kept(_WORDS), box.limits.output_mb << 20
        self._out = Reader(self._process.stdout, self._line.take, most, lambda: self._line.take(b""))
        self._errors = Reader(self._process.stderr, self._words.add, most, lambda: None)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def idle(self) -> bool:
        """Whether it lives and has said nothing that was not asked."""
        return self._process.poll() is None and not self._line.waiting

    @property
    def words(self) -> str:
        """The end of what it wrote to stderr, when it is closed."""
        return self._words.text.strip()[-600:]

    def ask(self, job: bytes, seconds: float) -> dict[str, Any] | Literal["late", "gone", "full", "forged"]:
        """The answer to a job, or what there was in place of one."""
        word = secrets.token_hex(WORD // 2)
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101 - for the type checker
        begun = time.monotonic()
        try:
            pipe.write(job + word.encode())
            pipe.flush()
        except OSError:
            return "gone"
        line = self._line.get(seconds)
        if line is None:
            return "full" if self._out.over else "late" if time.monotonic() - begun >= seconds else "gone"
        try:
            return read_reply(line, word)
        except Forged:
            return "forged"

    def close(self) -> None:
        """End it, with all that runs inside."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        end(self._process)
        for reader in (self._out, self._errors):
            reader.join(_GRACE)
        close(self._process)
