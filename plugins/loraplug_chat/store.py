"""Encoded rows on disk: written batch by batch, found again by a fingerprint of all that went into them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field

from loraplug_chat import clock
from loraplug_chat.packing import best_fit

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

REPORT = b"loraplug"
ROWS_A_BATCH = 256


@define
class Line:
    """One encoded row: its name, token ids, and for each token whether it is trained."""

    row: str
    ids: list[int]
    trained: list[bool]


def fingerprint(rows: Dataset, tokenizer: Any, options: Any) -> str:
    """A hash of the rows' content, the tokenizer with its template, the options, the date (if the template asks),
    this package's code and the versions of what it stands on.
    """
    import tokenizers
    import transformers

    template = str(getattr(tokenizer, "chat_template", None))
    digest = hashlib.blake2b(digest_size=20)
    parts = [
        _code(),
        transformers.__version__,
        tokenizers.__version__,
        repr(options),
        template,
        repr(sorted(tokenizer.special_tokens_map.items())),
        tokenizer.backend_tokenizer.to_str() if getattr(tokenizer, "is_fast", False) else repr(tokenizer),
        repr(clock.told(template)),
        repr(rows.features),
    ]
    for part in parts:
        digest.update(hashlib.blake2b(part.encode(), digest_size=20).digest())
    for table in rows.with_format("arrow").iter(batch_size=1000):
        digest.update(_content(table))
    return digest.hexdigest()


def _content(table: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    table = table.combine_chunks().replace_schema_metadata(None)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.blake2b(sink.getvalue(), digest_size=20).digest()


@cache
def _code() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=20).hexdigest()


@define
class Writer:
    """Writes lines to an Arrow file in batches, so that memory stays flat."""

    path: Path
    _stream: Any = None
    _waiting: list[list[Line]] = field(factory=list)
    lengths: list[int] = field(factory=list)

    def add(self, *pack: Line) -> None:
        """One row of the file: a line, or several packed together."""
        self._waiting.append(list(pack))
        self.lengths.append(sum(len(line.ids) for line in pack))
        if len(self._waiting) >= ROWS_A_BATCH:
            self._flush()

    def close(self) -> None:
        """Write what waits."""
        self._flush()
        if self._stream is not None:
            self._stream.close()

    def _flush(self) -> None:
        import numpy as np
        import pyarrow as pa

        if not self._waiting and self._stream is not None:
            return
        ends = np.cumsum([0, *(sum(len(line.ids) for line in pack) for pack in self._waiting)], dtype=np.int32)
        lines = [line for pack in self._waiting for line in pack]
        ids = np.fromiter(chain.from_iterable(line.ids for line in lines), np.int32, ends[-1])
        trained = np.fromiter(chain.from_iterable(line.trained for line in lines), np.bool_, ends[-1])
        batch = pa.record_batch(
            {
                "input_ids": pa.ListArray.from_arrays(ends, ids),
                "labels": pa.ListArray.from_arrays(ends, np.where(trained, ids, np.int32(-100))),
                "row": pa.array([[line.row for line in pack] for pack in self._waiting], pa.list_(pa.string())),
                "seq_lengths": pa.array(
                    [[len(line.ids) for line in pack] for pack in self._waiting], pa.list_(pa.int32())
                ),
            }
        )
        if self._stream is None:
            self._stream = pa.ipc.new_stream(str(self.path), batch.schema)
        self._stream.write_batch(batch)
        self._waiting.clear()


def read(path: Path, report: dict[str, Any] | None = None) -> tuple[Dataset, dict[str, Any]]:
    """The rows of a finished file, mapped into memory, and the report beside it (written first, if given)."""
    from datasets import Dataset

    beside = path.with_suffix(".json")
    if report is not None:
        beside.write_text(json.dumps(report, indent=1), encoding="utf-8")
    known: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
    rows = Dataset.from_file(str(path))
    rows.info.description = json.dumps(known)
    if not known["packed"]:
        rows = rows.remove_columns("seq_lengths")
    return rows, known


def join(parts: Sequence[Path], out: Path) -> None:
    """Write the batches of several files as one."""
    import pyarrow as pa

    writer = None
    for path in parts:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            writer = writer or pa.ipc.new_stream(str(out), stream.schema)
            for batch in stream:
                writer.write_batch(batch)
        path.unlink()
    if writer is not None:
        writer.close()


def packed(lines: Path, lengths: Iterable[int], budget: int, out: Path) -> list[list[int]]:
    """Rewrite the lines of one file as packs of at most `budget` tokens in another; gives the packs."""
    from datasets import Dataset

    rows = Dataset.from_file(str(lines))
    packs = best_fit(list(lengths), budget)
    writer = Writer(out)
    for pack in packs:
        writer.add(*(_first_untrained(rows[index]) for index in pack))
    writer.close()
    return packs


def _first_untrained(row: dict[str, Any]) -> Line:
    """A packed document: nothing stands in front of its first token, so that cannot be learnt."""
    return Line(row["row"][0], row["input_ids"], [False, *(label != -100 for label in row["labels"][1:])])
