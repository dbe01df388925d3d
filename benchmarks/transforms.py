"""The cost of fetching, deduplicating, decontaminating and mixing many rows: rows per minute and peak memory.

    python benchmarks/transforms.py                   # 200,000 rows, every step in a process of its own
    python benchmarks/transforms.py --rows 20000 --steps deduplicate mix

Rows are made here, of about 120 words; one in ten is an exact copy and one in ten a copy with three words changed.
`fetch` reads them as JSON Lines from a server on the loopback into the cache. `decontaminate` holds them against 2,000
texts, of which half are among them. `mix` interleaves two encoded sets by tokens, and is held against the time of
encoding, which is measured on 2,000 chat rows and scaled by tokens. Peak memory is the step's own process', its
private part and with the mapped pages of files; its CPU time stands beside the clock, as machines are shared.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from encode import Memory, by_us, made_rows, tokenizer

from loraplug.testing import tiny_run

STEPS = ("fetch", "deduplicate", "decontaminate", "mix")


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


def fetch(_: Any, folder: Path, address: str) -> Any:
    """From a server, once."""
    from loraplug_data.sources import JsonLinesSource

    return JsonLinesSource(path=address).load(run=tiny_run(folder))


def deduplicate(rows: Any, folder: Path, _: str) -> Any:
    """Word for word, and by MinHash."""
    from loraplug_data.duplicates import Deduplicate

    return Deduplicate(near=0.85).apply(rows=rows, run=tiny_run(folder))


def decontaminate(rows: Any, folder: Path, _: str) -> Any:
    """Against texts of a file."""
    from loraplug_data.overlaps import Decontaminate
    from loraplug_data.sources import JsonLinesSource

    against = JsonLinesSource(path=folder / "against.jsonl")
    return Decontaminate(against=(against,)).apply(rows=rows, run=tiny_run(folder))


def encoded(count: int) -> Iterator[dict[str, Any]]:
    """Rows as formatters encode them."""
    draw = random.Random(12)  # noqa: S311 - no secret
    for _ in range(count):
        length = draw.randint(100, 500)
        yield {"input_ids": [7] * length, "labels": [-100] * (length // 2) + [7] * (length - length // 2)}


def mix(rows: Any, folder: Path, _: str) -> Any:
    """Two sets, three to one."""
    from loraplug.data.mixture import Mix, mixed

    half = len(rows) // 2
    sets = {"a": rows.select(range(half)), "b": rows.select(range(half, len(rows)))}
    how = Mix(how="interleave", exhausted="repeat", unit="tokens")
    return mixed(sets, {"a": 3.0, "b": 1.0}, how, tiny_run(folder))[0]


def one_step(step: str, count: int, folder: Path, address: str) -> None:
    """A step in this process, and its figures."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    rows = None
    if step != "fetch":
        make = encoded if step == "mix" else texts
        rows = Dataset.from_generator(make, gen_kwargs={"count": count}, cache_dir=str(folder / make.__name__))
    if step == "decontaminate" and rows is not None:
        other = (row["text"][::-1] for row in rows.select(range(1000)))
        with (folder / "against.jsonl").open("w", encoding="utf-8") as file:
            for text in (*rows[:1000]["text"], *other):
                file.write(json.dumps({"text": text}) + "\n")
    with Memory() as memory:
        clock, cpu = time.perf_counter(), time.process_time()
        left = globals()[step](rows, folder / step if step != "decontaminate" else folder, address)
        seconds, used = time.perf_counter() - clock, time.process_time() - cpu
    print(f"{step}: {count:,} rows, {len(left):,} come out; {count / seconds * 60:,.0f} rows a minute by the clock, "
          f"{count / used * 60:,.0f} by CPU time ({used:.1f} s); {memory}", flush=True)  # fmt: skip
    if step == "mix" and rows is not None:
        chats = Dataset.from_generator(made_rows, gen_kwargs={"count": 2000}, cache_dir=str(folder / "chats"))
        encoding, took = by_us(chats, tokenizer(), folder / "by-us")
        tokens = encoding.report["tokens"]
        ids = left.select_columns(["input_ids"]).with_format("arrow")
        whole = sum(len(table.column(0).combine_chunks().flatten()) for table in ids.iter(batch_size=1000))
        share = used / (took / tokens * whole)
        print(
            f"mix: {share:.2%} of the {took / tokens * whole:,.0f} s in which {whole:,} tokens are encoded", flush=True
        )


def main() -> None:
    """Every step in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        one_step(given.steps[0], given.rows, Path(given.inside[0]), given.inside[1])
        return
    with tempfile.TemporaryDirectory() as place:
        served = Path(place) / "served"
        served.mkdir()
        if "fetch" in given.steps:
            with (served / "rows.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in texts(given.rows))
        handler = partial(_Quiet, directory=str(served))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/rows.jsonl"
            for step in given.steps:
                inside = ["--inside", place, address, "--rows", str(given.rows), "--steps", step]
                subprocess.run([sys.executable, __file__, *inside], check=True)
            server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def copyfile(self, *files: Any) -> None:
        """A client that only asks goes away."""
        with suppress(ConnectionError):
            super().copyfile(*files)


if __name__ == "__main__":
    main()
