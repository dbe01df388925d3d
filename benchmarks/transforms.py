"""What deduplicating by MinHash costs: rows a minute and the most memory held, on rows made here.

    python benchmarks/transforms.py --rows 200000

Each row has about 120 words; one in ten is an exact copy and one in ten a copy with three words changed. The process'
own CPU time is told beside the clock, as machines are shared.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from loraplug.testing import tiny_run
from loraplug_data.duplicates import Deduplicate


def texts(count: int) -> Iterator[dict[str, str]]:
    """Rows, some of which repeat an earlier one."""
    draw = random.Random(11)  # noqa: S311 - no secret
    words = [f"word{n}" for n in range(20_000)]
    kept: list[list[str]] = []
    for number in range(count):
        kind = number % 10
        if kind > 1 or not kept:
            row = draw.choices(words, k=draw.randint(80, 160))
            if len(kept) < 2000:
                kept.append(row)
        else:
            row = list(draw.choice(kept))
            for _ in range(3 * kind):
                row[draw.randrange(len(row))] = draw.choice(words)
        yield {"text": " ".join(row)}


def main() -> None:
    """Make the rows on disk, go through them, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--near", type=float, default=0.85)
    given = parser.parse_args()
    from datasets import Dataset

    with tempfile.TemporaryDirectory() as folder:
        rows = Dataset.from_generator(texts, gen_kwargs={"count": given.rows}, cache_dir=folder)
        run = tiny_run(Path(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        clock, cpu = time.perf_counter(), time.process_time()
        left = Deduplicate(near=given.near).apply(rows=rows, run=run)
        seconds, used = time.perf_counter() - clock, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print("\n".join(run.reporter.lines))
        print(f"{len(rows):,} rows, {len(left):,} left")
        print(f"{len(rows) / seconds * 60:,.0f} rows a minute by the clock, {len(rows) / used * 60:,.0f} by CPU time")
        print(f"peak memory {peak:.2f} GB, {before:.2f} GB before")


if __name__ == "__main__":
    main()
