"""`deduplicate`: removes exact and near duplicates (MinHash: Broder 1997, by datasketch)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from attrs import field, frozen, validators

from loraplug import Doc, Run, Transform, iter_rows, row_id
from loraplug_data.caching import Fallen, texts, without_fallen
from loraplug_data.columns import check_columns, content

if TYPE_CHECKING:
    from datasets import Dataset

_SHINGLE, _PERMUTATIONS, _MISSED, _SPREAD = 5, 128, 0.01, 0.12
"""Words of a shingle; hashes of a signature; the chance to miss a pair at the threshold; by how much a signature's
estimate of the similarity may be off (three standard errors) before the pair is looked at."""


@frozen
class Deduplicate(Transform):
    """Removes rows that are exact or near duplicates of an earlier one; the first is kept."""

    name = "deduplicate"
    for_validation: ClassVar[bool] = False
    near: Annotated[
        float | None,
        Doc("also remove rows with at least this Jaccard similarity of 5-word shingles, such as 0.85"),
    ] = field(default=None, validator=validators.optional(validators.and_(validators.ge(0.4), validators.lt(1))))
    columns: Annotated[
        tuple[str, ...], Doc("columns to compare; default: all but instance_id, task_id, id and group")
    ] = ()
    report: Annotated[Path | None, Doc("a .jsonl file that lists every removed row, with the row it duplicates")] = None

    def apply(self, rows: Dataset, run: Run) -> Dataset:
        """The first of each, in their order.

        Raises:
            InputError: a column is not there.
        """
        check_columns(self.columns, rows.column_names, "dataset.transform deduplicate: columns")
        return without_fallen(rows, self, run, lambda: self._fallen(rows, run), self.report)

    def _fallen(self, rows: Dataset, run: Run) -> Iterator[Fallen]:
        first: dict[bytes, int] = {}
        alike = None if self.near is None else _Near(self.near, lambda index: self._words(rows[index]))
        with run.progress("deduplicate", len(rows)) as bar:
            for index, row in enumerate(iter_rows(rows)):
                known = content(row, self.columns)
                key = hashlib.blake2b(
                    json.dumps(known, sort_keys=True, default=str).encode("utf-8", "surrogatepass"), digest_size=16
                ).digest()
                if (same := first.setdefault(key, index)) != index:
                    yield Fallen(index, "the same as an earlier row", row_id(rows[same], same))
                elif alike is not None and (twin := alike.twin(index, shingles(known))) is not None:
                    first[key] = twin
                    yield Fallen(index, f"at least {self.near:g} like an earlier row", row_id(rows[twin], twin))
                bar.advance()

    def _words(self, row: Mapping[str, Any]) -> frozenset[bytes]:
        return shingles(content(row, self.columns))


def shingles(value: Any) -> frozenset[bytes]:
    """Every five words in a row of a value's texts, lower case; all of them where there are fewer."""
    words = re.findall(r"\w+", "\n".join(texts(value)).lower())
    count = max(len(words) - _SHINGLE + 1, 1)
    return frozenset(" ".join(words[at : at + _SHINGLE]).encode("utf-8", "surrogatepass") for at in range(count))


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows a band): the most rows with which a pair at the threshold is hardly ever missed."""
    fitting = (rows for rows in range(_PERMUTATIONS, 0, -1)
               if (1 - threshold**rows) ** (_PERMUTATIONS // rows) <= _MISSED)  # fmt: skip
    rows = next(fitting, 1)
    return _PERMUTATIONS // rows, rows


class _Near:
    """Signatures of the rows that stayed, found again by their bands.

    datasketch makes the signatures; its own index keeps Python objects for every row and band, which for 200,000 rows
    is more than a gigabyte, so the index here holds numbers alone.
    """

    def __init__(self, threshold: float, words: Callable[[int], frozenset[bytes]]) -> None:
        import xxhash
        from datasketch import MinHash

        self.threshold, self.hash = threshold, xxhash.xxh32_intdigest
        self.first = MinHash(num_perm=_PERMUTATIONS, hashfunc=self.hash)
        self.make = MinHash
        self.bands, self.rows = bands(threshold)
        self.words = lru_cache(maxsize=512)(words)
        self.signatures: dict[int, bytes] = {}
        self.index: dict[int, int | list[int]] = {}

    def twin(self, number: int, words: frozenset[bytes]) -> int | None:
        """The first row that stayed and is like this one; else this one stays, and None."""
        import numpy as np

        made = self.make(
            num_perm=_PERMUTATIONS, hashfunc=self.hash, permutations=self.first.permutations, scheme=self.first.scheme
        )
        made.update_batch(sorted(words))
        signature = made.hashvalues.astype(np.uint32)
        size = 4 * self.rows
        raw = signature.tobytes()
        keys = [hash((band, raw[band * size : (band + 1) * size])) for band in range(self.bands)]
        found: set[int] = set()
        for key in keys:
            there = self.index.get(key)
            found.update([there] if isinstance(there, int) else there or ())
        for other in sorted(found):
            same = np.frombuffer(self.signatures[other], dtype=np.uint32) == signature
            if same.mean() >= self.threshold - _SPREAD and _jaccard(self.words(other), words) >= self.threshold:
                return other
        self.signatures[number] = raw
        for key in keys:
            there = self.index.setdefault(key, number)
            if isinstance(there, list):
                there.append(number)
            elif there != number:
                self.index[key] = [there, number]
        return None


def _jaccard(one: frozenset[bytes], other: frozenset[bytes]) -> float:
    both = len(one & other)
    return both / (len(one) + len(other) - both)
