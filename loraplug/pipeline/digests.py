"""Hashes of tokenizer, chat template and encoded rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import files
from loraplug.data.schemas import SCHEMAS

if TYPE_CHECKING:
    from datasets import Dataset

_DIGEST = 16  # bytes a row
_ROWS_A_BATCH = 1000


def tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    """Size and hash of a tokenizer with all that makes ids; not what a call sets, nor its template."""
    if getattr(tokenizer, "is_fast", False):
        table = json.loads(tokenizer.backend_tokenizer.to_str())
        inner: Any = {key: value for key, value in table.items() if key not in ("version", "truncation", "padding")}
    else:
        vocabulary: dict[str, int] = getattr(tokenizer, "get_vocab", dict)()
        inner = [type(tokenizer).__name__, sorted(vocabulary.items())]
    specials = sorted((name, str(value)) for name, value in getattr(tokenizer, "special_tokens_map", {}).items())
    return {"tokens": len(tokenizer), "sha256": _sha256(json.dumps([inner, specials], sort_keys=True))}


def template_text(tokenizer: Any) -> str:
    """The chat template, or all of them where it has several by name; empty where there is none."""
    found = getattr(tokenizer, "chat_template", None)
    return found if isinstance(found, str) else json.dumps(found, indent=1, sort_keys=True) if found else ""


def template_facts(text: str) -> dict[str, Any]:
    """The hash of a chat template."""
    return {"sha256": _sha256(text)}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def first_difference(old: str, new: str) -> str:
    """Words on where two texts part."""
    for number, (was, now) in enumerate(zip_longest(old.splitlines(), new.splitlines()), 1):
        if was != now:
            return f"line {number} was {_clipped(was, now)}, is {_clipped(now, was)}"
    return "only line endings differ"


def _clipped(line: str | None, other: str | None) -> str:
    if line is None:
        return "not there"
    same = next((at for at, (a, b) in enumerate(zip(line, other or "", strict=False)) if a != b), 0)
    start = max(0, same - 20)
    return repr(("…" if start else "") + line[start : start + 60] + ("…" if len(line) > start + 60 else ""))


def row_digests(rows: Dataset) -> bytes:
    """A digest of 16 bytes for each encoded row, one behind the other: ids, labels, weights, lengths and row names."""
    return b"".join(_digests(rows))


def _digests(rows: Dataset) -> Iterator[bytes]:
    import numpy as np
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

    kinds = {"input_ids": "<i8", "labels": "<i8", "seq_lengths": "<i8", "token_weights": "<f4"}
    known = {name: kind for schema in SCHEMAS.values() for name, kind in schema.columns.items()}
    kinds |= {name: "<i8" for name, kind in known.items() if kind in ("ids", "labels")}
    others = [name for name in known if name not in (*kinds, "row")]
    names = [name for name in (*kinds, "row", *others) if name in rows.column_names]
    for table in rows.with_format("arrow").iter(batch_size=_ROWS_A_BATCH):
        columns: list[list[bytes]] = []
        for name in names:
            if name not in kinds:
                columns.append([json.dumps(row).encode() for row in table.column(name).to_pylist()])
                continue
            column = table.column(name).combine_chunks()
            column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            flat = np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), dtype=kinds[name])
            ends = np.cumsum(np.asarray(column.value_lengths().fill_null(0))).tolist()
            columns.append([flat[start:end].tobytes() for start, end in zip([0, *ends[:-1]], ends, strict=True)])
        for row in zip(*columns, strict=True):
            digest = hashlib.blake2b(digest_size=_DIGEST)
            for name, data in zip(names, row, strict=True):
                digest.update(f"{name} {len(data)} ".encode() + data)
            yield digest.digest()


def encoding_facts(digests: bytes) -> dict[str, Any]:
    """How many encoded rows there are, and a hash of all."""
    return {"rows": len(digests) // _DIGEST, "sha256": hashlib.sha256(digests).hexdigest()}


def differing_rows(old: bytes, new: bytes) -> int:
    """How many rows are encoded otherwise, or are there on one side alone."""
    return sum(was != now for was, now in zip_longest(_each(old), _each(new)))


def _each(digests: bytes) -> Iterable[bytes]:
    return (digests[at : at + _DIGEST] for at in range(0, len(digests), _DIGEST))


def write_digests(path: Path, digests: bytes) -> None:
    """Keep the digests of a run's encoded rows."""
    with files.atomic_output(path) as fresh, files.wrap_os_errors(path):
        fresh.write_bytes(digests)


def read_digests(path: Path, sha256: str) -> bytes | None:
    """Digests kept earlier, if they are the very ones that `sha256` tells of."""
    try:
        digests = path.read_bytes()
    except OSError:
        return None
    return digests if hashlib.sha256(digests).hexdigest() == sha256 else None
