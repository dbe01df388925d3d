"""Encoded rows on disk: written batch by batch, found again by a fingerprint of all that went into them."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field

from loraplug import conversation
from loraplug_chat import clock
from loraplug_chat.packing import best_fit

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

REPORT = b"loraplug"
ROWS_A_BATCH = 256
_SIDES = {
    "pairs": ("chosen_ids", "chosen_labels", "rejected_ids", "rejected_labels"),
    "labelled": ("completion_ids", "completion_labels", "label"),
    "rollouts": ("completion_ids", "old_log_probs", "advantage", "group"),
}


@define
class Line:
    """One encoded row: its name, token ids, and for each token its weight in the loss, 0 where it is not trained."""

    row: str
    ids: list[int]
    trained: Sequence[float]

    @property
    def plain(self) -> bool:
        """Whether all weights are 0 or 1."""
        return {*self.trained} <= {0, 1}


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
    folders = (Path(__file__).parent, Path(inspect.getfile(conversation)).parent)  # this package, and what reads rows
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=20).hexdigest()


@define
class Writer:
    """Writes lines to an Arrow file in batches, so that memory stays flat.

    `token_weights` is null for lines whose weights are all 0 or 1, unless `weights` asks to write them, too.
    """

    path: Path
    weights: bool = False
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
        trained = np.fromiter(chain.from_iterable(line.trained for line in lines), np.float32, ends[-1])
        batch = pa.record_batch(
            {
                "input_ids": pa.ListArray.from_arrays(ends, ids),
                "labels": pa.ListArray.from_arrays(ends, np.where(trained != 0, ids, np.int32(-100))),
                "token_weights": self._weights(ends, trained),
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

    def _weights(self, ends: Any, trained: Any) -> pa.Array:
        import pyarrow as pa

        if self.weights:
            return pa.ListArray.from_arrays(ends, trained)
        absent = [all(line.plain for line in pack) for pack in self._waiting]
        if all(absent):
            return pa.nulls(len(absent), pa.list_(pa.float32()))
        given = [None if no else trained[a:b] for no, a, b in zip(absent, ends, ends[1:], strict=False)]
        return pa.array(given, pa.list_(pa.float32()))


@define
class JudgedWriter:
    """Writes rows of the schemas `pairs`, `labelled` and `rollouts` to an Arrow file in batches."""

    path: Path
    schema: str
    _stream: Any = None
    _waiting: list[dict[str, Any]] = field(factory=list)
    lengths: list[int] = field(factory=list)

    def add(self, line: dict[str, Any]) -> None:
        """One row of the file; its length is that of all that is computed for it, the prompt once for each side."""
        sides = [name for name in _SIDES[self.schema] if name.endswith("_ids")]
        self.lengths.append(sum(len(line["prompt_ids"]) + len(line[name]) for name in sides))
        self._waiting.append(line)
        if len(self._waiting) >= ROWS_A_BATCH:
            self._flush()

    def close(self) -> None:
        """Write what waits."""
        self._flush()
        self._stream.close()

    def _flush(self) -> None:
        import pyarrow as pa

        kinds = {"row": pa.list_(pa.string()), "label": pa.bool_(), "old_log_probs": pa.list_(pa.float32()),
                 "advantage": pa.float64(), "group": pa.string()}  # fmt: skip
        columns = ["row", "prompt_ids", *_SIDES[self.schema]]
        schema = pa.schema([(name, kinds.get(name, pa.list_(pa.int32()))) for name in columns])
        if self._stream is None:
            self._stream = pa.ipc.new_stream(str(self.path), schema)
        self._stream.write_batch(pa.RecordBatch.from_pylist(self._waiting, schema=schema))
        self._waiting.clear()


def read(path: Path, report: dict[str, Any] | None = None) -> tuple[Dataset, dict[str, Any]]:
    """The rows of a finished file, mapped into memory, and the report beside it (written first, if given)."""
    from datasets import Dataset

    beside = path.with_suffix(".json")
    if report is not None:
        beside.write_text(json.dumps(report, indent=1), encoding="utf-8")
    known: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
    rows = Dataset.from_file(str(path))
    optional = (("seq_lengths", "packed"), ("token_weights", "weighted"))
    unused = [name for name, on in optional if name in rows.column_names and not known.get(on)]
    return rows.remove_columns(unused) if unused else rows, known


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


def packed(lines: Path, lengths: Iterable[int], budget: int, out: Path, weights: bool) -> int:
    """Rewrite the lines of one file as packs of at most `budget` tokens in another; gives the number of packs."""
    from datasets import Dataset

    rows = Dataset.from_file(str(lines))
    packs = best_fit(list(lengths), budget)
    writer = Writer(out, weights)
    for pack in packs:
        writer.add(*(_first_untrained(_line(rows[index])) for index in pack))
    writer.close()
    return len(packs)


def weighted(lines: Path, out: Path) -> None:
    """Rewrite the lines of one file with the weights of all tokens in another."""
    from datasets import Dataset

    writer = Writer(out, weights=True)
    for row in Dataset.from_file(str(lines)):
        writer.add(_line(row))
    writer.close()


def _line(row: dict[str, Any]) -> Line:
    trained = row["token_weights"] or [float(label != -100) for label in row["labels"]]
    return Line(row["row"][0], row["input_ids"], trained)


def _first_untrained(line: Line) -> Line:
    """A packed document: nothing stands in front of its first token, so that cannot be learnt."""
    return Line(line.row, line.ids, [0.0, *line.trained[1:]])
