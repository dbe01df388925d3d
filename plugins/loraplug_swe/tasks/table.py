"""Rows as a `datasets.Dataset`, streamed to a content-addressed Arrow file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

_JSON = ("messages", "tools")
_BATCH = 256  # rows held at once


def load_rows(rows: Iterable[Mapping[str, Any]], folder: Path) -> Dataset:
    """Write `rows`, which all have the same keys, to `folder` and memory-map the file.

    The same rows always give the same file and the same fingerprint, and other rows never do: nothing cached on top
    of it can be stale. Columns: `messages` and `tools` are JSON, `group` a list of strings, all others strings.
    """
    import pyarrow
    from datasets import Dataset, Features, Json, List, Value
    from datasets.table import MemoryMappedTable

    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{os.getpid()}.part"
    digest, iterator = hashlib.sha256(), iter(rows)
    try:
        batch = list(islice(iterator, _BATCH))
        columns = {key: Json() if key in _JSON else List(Value("string")) if key == "group" else Value("string")
                   for key in (batch[0] if batch else ())}  # fmt: skip
        schema = Features(columns).arrow_schema
        digest.update(json.dumps(list(columns)).encode())
        with beside.open("wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
            while batch:
                stored = [_stored(row) for row in batch]
                for row in stored:
                    digest.update(json.dumps(row, sort_keys=True).encode())
                arrays = [pyarrow.array([row[key] for row in stored], schema.field(key).type) for key in columns]
                writer.write_batch(pyarrow.record_batch(arrays, schema=schema))
                batch = list(islice(iterator, _BATCH))
        name = digest.hexdigest()
        path = folder / f"{name}.arrow"
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
        _close(iterator)
    # Dataset.from_file would hash the file's time of writing
    return Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=name[:16])


def _stored(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: json.dumps(value) if key in _JSON else value for key, value in row.items()}


def _close(iterator: Iterator[Any]) -> None:
    if (close := getattr(iterator, "close", None)) is not None:
        close()
