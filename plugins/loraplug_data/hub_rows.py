"""The first rows of a hub data set, read as a stream: of a large set no more is fetched than they need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from loraplug import Run, fresh_place

if TYPE_CHECKING:
    from datasets import Dataset

_SECONDS = 30


def first_rows(id: str, config: str | None, split: str, revision: str | None, limit: int, run: Run) -> Dataset:  # noqa: A002
    """The first `limit` rows of a split, kept in the cache by the commit that the revision stands for.

    Raises what `datasets` and `huggingface_hub` raise.
    """
    import shutil

    from datasets import Dataset, load_dataset, load_from_disk
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(id, revision=revision, timeout=_SECONDS).sha
    name = sha256(json.dumps([id, config, split, commit, limit]).encode()).hexdigest()[:24]
    place = run.cache / "hub" / name
    if not place.is_dir():
        stream = load_dataset(id, config, split=split, revision=commit, streaming=True).take(limit)

        def rows() -> Iterator[dict[str, Any]]:
            with run.progress(f"reading {id}", limit) as bar:
                for row in stream:
                    yield row
                    bar.advance()

        with fresh_place(place) as fresh:
            work = fresh / "work"
            made = Dataset.from_generator(rows, stream.features, cache_dir=str(work), fingerprint=name)
            made.save_to_disk(str(fresh))
            del made
            shutil.rmtree(work)
    run.say(f"dataset: {id}: the first rows alone, at most {limit:,}, of the commit {str(commit)[:12]}")
    return load_from_disk(str(place))
