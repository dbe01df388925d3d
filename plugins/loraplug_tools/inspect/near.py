"""Near-duplicate rows, by MinHash over word shingles (Broder 1997; datasketch does the hashing and the look-up)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from datasets import Dataset

    from loraplug import Run

SHINGLE, PERMUTATIONS, ALIKE = 5, 64, 0.8
NAMES = ("instance_id", "task_id", "id", "group", "_origin")


@frozen
class Near:
    """Rows that are nearly alike: within training, and across to validation (pairs of row numbers)."""

    within: list[tuple[int, int]]
    across: list[tuple[int, int]]


def near(train: Dataset, held: Dataset | None, run: Run) -> Near:
    """Pairs with an estimated Jaccard similarity of at least 0.8; of each row the first earlier row it resembles."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=ALIKE, num_perm=PERMUTATIONS)
    hashes: list[Any] = []
    within, across = [], []
    with run.progress("near-duplicates", len(train) + len(held or ())) as bar:
        for number, row in enumerate(_rows(train)):
            made = _hashed(row)
            if (twin := _alike(index, hashes, made)) is not None:
                within.append((twin, number))
            index.insert(number, made)
            hashes.append(made)
            bar.advance(1)
        for number, row in enumerate(_rows(held) if held is not None else ()):
            if (twin := _alike(index, hashes, _hashed(row))) is not None:
                across.append((twin, number))
            bar.advance(1)
    return Near(within, across)


def _rows(rows: Dataset) -> Iterator[Mapping[str, Any]]:
    for batch in rows.iter(batch_size=256):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _hashed(row: Mapping[str, Any]) -> Any:
    from datasketch import MinHash

    content = {key: value for key, value in row.items() if key not in NAMES}
    words = re.findall(r"\w+", json.dumps(content, ensure_ascii=False, default=str).lower())
    shingles = {" ".join(words[at : at + SHINGLE]).encode() for at in range(max(len(words) - SHINGLE + 1, 1))}
    made = MinHash(num_perm=PERMUTATIONS)
    made.update_batch(sorted(shingles))
    return made


def _alike(index: Any, hashes: list[Any], made: Any) -> int | None:
    found = [number for number in sorted(index.query(made)) if hashes[number].jaccard(made) >= ALIKE]
    return found[0] if found else None
