"""Rejected tasks: reasons, counts, and a file that lists each of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from loraplug import redact


class Reject(Exception):  # noqa: N818 - a verdict on a task, nothing that went wrong
    """This task is rejected.

    Args:
        reason: a short stable code, counted in the summary.
        detail: a description; git's message if git rejected it.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class Rejects:
    """Counts rejects by reason and writes each to `path`, one JSON object per line; the file appears at the end."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.counts: Counter[str] = Counter()
        self.first = ""  # its detail, which says more than its reason

    def add(self, reject: Reject, *, instance_id: str | None, task_id: str | None, where: str) -> None:
        """Count and write one."""
        self.counts[reject.reason] += 1
        self.first = self.first or reject.detail[:300]
        entry = {
            "instance_id": instance_id,
            "task_id": task_id,
            "reason": reject.reason,
            "detail": redact(reject.detail),  # git repeats the address it was given
            "where": where,
        }
        self._file.write(json.dumps(entry, ensure_ascii=True) + "\n")

    @property
    def total(self) -> int:
        """All rejects so far."""
        return self.counts.total()

    def summary(self) -> str:
        """For people: `3 empty-patch, 1 duplicate`, most frequent first."""
        return ", ".join(f"{count} {reason}" for reason, count in self.counts.most_common())


@contextmanager
def open_rejects(path: Path) -> Iterator[Rejects]:
    """Collect rejects; `path` is replaced if the block succeeds, and unchanged otherwise."""
    with atomic_text(path) as file:
        yield Rejects(file)


@contextmanager
def atomic_text(path: Path) -> Iterator[IO[str]]:
    """A text file written to a temporary path and renamed to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
