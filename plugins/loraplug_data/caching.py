"""Caches results of transforms by the content of the rows and the options."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import Run, Transform, atomic_output, row_id

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

_FORM = "1"
"""Goes into the cache's names; another word where what a transform makes of the same rows changes."""
_BATCH = 1000
_SHOWN = 5


@frozen
class Fallen:
    """A row that is left out: its index, why, and what it fell to (the row it repeats, the text it overlaps)."""

    index: int
    reason: str
    of: str | None = None


def content_key(rows: Dataset, part: object, beside: str = "") -> str:
    """A hash (hex, 64 characters) of the rows' Arrow content, the transform with its options, and of `beside`."""
    digest = hashlib.blake2b(digest_size=32)
    digest.update(f"{_FORM} {part!r} {beside} {rows.features!r}".encode())
    for table in rows.with_format("arrow").iter(batch_size=_BATCH):
        for batch in table.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()


def without_fallen(
    rows: Dataset,
    part: Transform,
    run: Run,
    find: Callable[[], Iterable[Fallen]],
    report: Path | None = None,
    beside: str = "",
) -> Dataset:
    """The rows but for those that `find` gives; how many fell for what reason is told.

    Args:
        find: gives what falls; not called where the cache knows.
        report: a file for every row that fell, one JSON object a line.
        beside: what decides beyond rows and options, such as the content of files compared with.
    """
    place = _place(run, content_key(rows, part, beside)).with_suffix(".json")
    fallen = _known(place)
    if fallen is None:
        fallen = list(find())
        with atomic_output(place) as out:
            text = json.dumps([[one.index, one.reason, one.of] for one in fallen], ensure_ascii=False)
            out.write_text(text, encoding="utf-8")
    named: dict[str, list[str]] = {}
    for one in fallen:
        names = named.setdefault(one.reason, [])
        if len(names) < _SHOWN:
            name = row_id(rows[one.index], one.index)
            names.append(f"{name}: {one.of}" if one.of else name)
    counts = Counter(one.reason for one in fallen)
    for reason, names in named.items():
        run.left_out(reason, counts[reason], names)
    if report is not None:
        _write(report, rows, fallen)
        run.say(f"{len(fallen)} rows that were left out are listed in {report}")
    out_of = {one.index for one in fallen}
    return rows.select([index for index in range(len(rows)) if index not in out_of]) if fallen else rows


def _known(place: Path) -> list[Fallen] | None:
    try:
        return [Fallen(*one) for one in json.loads(place.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return None


def _write(report: Path, rows: Dataset, fallen: Iterable[Fallen]) -> None:
    with atomic_output(report) as out, out.open("w", encoding="utf-8", newline="\n") as file:
        for one in fallen:
            line = {"row": row_id(rows[one.index], one.index), "index": one.index, "reason": one.reason, "of": one.of}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def changed(
    rows: Dataset,
    part: Transform,
    run: Run,
    work: Callable[[pa.Table, Counter[str]], pa.Table],
    features: Features | None = None,
    remove: Sequence[str] = (),
    beside: str = "",
) -> tuple[Dataset, Counter[str]]:
    """The rows as `work` makes them, batch by batch into a file of the cache, and what it counted on the way."""
    from datasets import disable_progress_bars

    disable_progress_bars()
    key = content_key(rows, part, beside)
    place = _place(run, key)
    told = place.with_suffix(".json")
    counts: Counter[str] = Counter()
    known = place.is_file() and told.is_file()
    made = rows.with_format("arrow").map(
        lambda table: work(table, counts),
        batched=True, batch_size=_BATCH, features=features or rows.features, cache_file_name=str(place),
        load_from_cache_file=known, new_fingerprint=key, remove_columns=list(remove) or None,
    )  # fmt: skip
    if known:
        counts.update(json.loads(told.read_text(encoding="utf-8")))
    else:
        with atomic_output(told) as out:
            out.write_text(json.dumps(counts), encoding="utf-8")
    return made.with_format(None), counts


def _place(run: Run, key: str) -> Path:
    folder = run.cache / "transforms"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{key}.arrow"


def texts(value: Any) -> Iterable[str]:
    """Every text in a row's value, through lists and objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)
