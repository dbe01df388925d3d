"""Encoding in several processes, where there are rows enough to pay for starting them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from loraplug_chat.encoding import Encoding
    from loraplug_chat.report import Part

CHUNK = 4_000  # rows a worker takes at a time
# rows; starting workers takes seconds. Measured on two cores with short rows, one process against two: 7.6 s and 13.8 s
# for 60,000, 27.9 s and 21.9 s for 250,000
WORTH = 250_000

_job: Callable[[int], Part] | None = None


def count(rows: int) -> int:
    """How many processes to encode so many rows in: one for each core this process may use, or just this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if rows >= WORTH else 1


def parts(
    formatter: Encoding, rows: Dataset, tokenizer: Any, folder: Path, processes: int, date: datetime, schema: str
) -> Iterator[Part]:
    """Encode chunks of rows in processes of their own, each chunk into a file of `folder`; parts come in order."""
    from multiprocessing import get_context

    # spawned, not forked: threads of torch and of the tokenizer do not survive a fork
    with get_context("spawn").Pool(processes, _begin, (formatter, rows, tokenizer, folder, date, schema)) as pool:
        yield from pool.imap(_work, range(0, len(rows), CHUNK))


def _begin(formatter: Encoding, rows: Dataset, tokenizer: Any, folder: Path, date: datetime, schema: str) -> None:
    global _job
    from loraplug_chat import clock

    with clock.stopped_at(date):
        lines = formatter.lines(schema, rows.column_names, tokenizer)

    def job(first: int) -> Part:
        chunk = rows.select(range(first, min(first + CHUNK, len(rows))))
        with clock.stopped_at(date):
            return formatter.part(chunk, lines, first, folder / f"{first}.arrow", schema)

    _job = job


def _work(first: int) -> Part:
    assert _job is not None  # noqa: S101 - for the type checker; the pool has called _begin
    return _job(first)
