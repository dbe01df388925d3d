"""Encodes with several workers if there are enough rows to make up for starting them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, frozen

from loraplug import Job, Workers

if TYPE_CHECKING:
    from datasets import Dataset

    from loraplug_chat.encoding import Encoding
    from loraplug_chat.report import Part

CHUNK = 4_000  # rows a worker takes at a time, fewer of long ones
_LARGEST = 16 << 20  # bytes, about, of such rows
# rows; starting workers takes seconds. Measured on two cores with short rows, one process against two: 7.6 s and 13.8 s
# for 60,000, 27.9 s and 21.9 s for 250,000
WORTH = 250_000


def count(rows: int, workers: Workers) -> int:
    """How many workers are to encode so many rows: 0 for one a processor, 1 for just this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if rows >= WORTH and (workers.use != "local" or cores > 1) else 1


@frozen(eq=False)
class Chunk:
    """Some of the rows, the first of which has the number `first`; sent elsewhere by content, not by file."""

    rows: Dataset
    first: int

    def __reduce__(self) -> tuple[Callable[..., Chunk], tuple[bytes, Any, int]]:
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        table = self.rows.with_format("arrow")[:]
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return _chunk, (sink.getvalue().to_pybytes(), self.rows.features, self.first)


@define
class Encoded:
    """What became of a chunk, and the file it was written to, whose path is that of the worker."""

    part: Part
    file: bytes


@frozen
class EncodeJob(Job[Chunk, Encoded]):
    """Encodes chunks of rows."""

    formatter: Encoding
    columns: list[str]
    tokenizer: Any
    date: datetime
    schema: str

    @contextmanager
    def start(self, folder: Path | None) -> Iterator[Callable[[Chunk], Encoded]]:  # noqa: ARG002 - it reads none
        """See `Job.start`."""
        from loraplug_chat import clock

        with tempfile.TemporaryDirectory() as place:
            with clock.stopped_at(self.date):
                lines = self.formatter.lines(self.schema, self.columns, self.tokenizer)

            def work(chunk: Chunk) -> Encoded:
                path = Path(place, "rows.arrow")
                with clock.stopped_at(self.date):
                    part = self.formatter.part(chunk.rows, lines, chunk.first, path, self.schema)
                return Encoded(part, path.read_bytes())

            yield work


def parts(
    formatter: Encoding, rows: Dataset, tokenizer: Any, folder: Path, workers: Workers, processes: int, date: datetime,
    schema: str,
) -> Iterator[Part]:  # fmt: skip
    """Encode chunks of rows, each into a file of `folder`; parts come in order.

    Args:
        processes: how many at once; 0: one a processor.
    """
    size = max(1, min(CHUNK, _LARGEST * len(rows) // max(1, rows.data.nbytes)))
    chunks = (
        Chunk(rows.select(range(first, min(first + size, len(rows)))), first) for first in range(0, len(rows), size)
    )

    def write(chunk: Chunk, encoded: Encoded) -> None:
        path = folder / f"{chunk.first}.arrow"
        path.write_bytes(encoded.file)
        encoded.part, encoded.file = evolve(encoded.part, path=path), b""

    job = EncodeJob(formatter, rows.column_names, tokenizer, date, schema)
    with closing(workers.map(job, chunks, "processes", count=processes, record=write)) as done:
        for _, encoded in done:
            yield encoded.part


def _chunk(packed: bytes, features: Any, first: int) -> Chunk:
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo

    return Chunk(Dataset(pa.ipc.open_stream(packed).read_all(), info=DatasetInfo(features=features)), first)
