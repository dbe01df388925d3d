"""Reading parquet with nested tables: this checkout compared with another one, in one run.

    git worktree add --detach ../before COMMIT
    python benchmarks/read_parquet.py --before ../before

The rows are made here: questions, answers and tool calls, some with keys that others lack, which Arrow fills with
nulls. Each measurement is a process of its own that loads the file with the `parquet` source, nothing cached, and
goes through the rows as the formatter does; the two checkouts take turns, so that what else the machine does meets
both alike. CPU time of the process, the median of all turns; the ratio is the median of the ratios within a turn.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
WORDS = ["read", "write", "parser", "index", "token", "module", "buffer", "request", "header", "cache", "column"]

READ = """
import sys, time
from pathlib import Path
import datasets, pyarrow.parquet
import loraplug
from loraplug import Run
from loraplug_data.sources import ParquetSource
try:
    from loraplug import iter_rows
except ImportError:  # before there was one: the formatter's own
    from loraplug_chat.encoding import _each as iter_rows
run = Run("benchmark", outputs=Path(sys.argv[2]) / "outputs", cache=Path(sys.argv[2]) / "cache")
source = ParquetSource(path=Path(sys.argv[1]))
start = time.process_time()
rows = source.load(run)
loaded = time.process_time()
count = sum(1 for _ in iter_rows(rows))
print(Path(loraplug.__file__).parents[1], count, loaded - start, time.process_time() - loaded)
"""


def text(draw: random.Random, most: int) -> str:
    """Some words."""
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, most)))


def chats(count: int) -> Iterator[dict[str, Any]]:
    """Rows of `messages` with one to three rounds; every third has a tool call, arguments as a table in it."""
    draw = random.Random(5)  # noqa: S311 - made-up rows
    for number in range(count):
        messages: list[dict[str, Any]] = [{"role": "system", "content": text(draw, 12)}]
        for _ in range(draw.randint(1, 3)):
            messages.append({"role": "user", "content": text(draw, 60)})
            if draw.random() < 1 / 3:
                wanted = {"path": text(draw, 4), "line": draw.randrange(999)}
                if draw.random() < 0.5:
                    wanted["text"] = text(draw, 20)
                called = {"id": f"c{number}", "type": "function", "function": {"name": "edit", "arguments": wanted}}
                messages.append({"role": "assistant", "content": None, "tool_calls": [called]})
                messages.append({"role": "tool", "content": text(draw, 60), "tool_call_id": f"c{number}"})
            messages.append({"role": "assistant", "content": text(draw, 100)})
        yield {"id": f"row-{number}", "messages": messages}


def plain(count: int) -> Iterator[dict[str, Any]]:
    """Rows of `messages` whose turns have a role and a content each, and nothing else."""
    for row in chats(count):
        yield {
            "id": row["id"],
            "messages": [{"role": one["role"], "content": one["content"] or ""} for one in row["messages"]],
        }


def measured(tree: Path, file: Path) -> tuple[float, float]:
    """CPU seconds of loading and of going through the rows, by the code in `tree`."""
    paths = os.pathsep.join([str(tree), str(tree / "plugins")])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", READ, str(file), folder]
        environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
        told = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    found, _, loaded, walked = told.stdout.split()[-4:]
    assert Path(found).resolve() == tree.resolve(), f"{found} was measured, not {tree}"
    return float(loaded), float(walked)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="another checkout of this project")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    import pyarrow
    from pyarrow import parquet

    trees = {"before": options.before, "now": HERE}
    print("rows                 who      load s   walk s   both s   ratio")
    with tempfile.TemporaryDirectory() as place:
        for kind, make in (("with tool calls", chats), ("role and content", plain)):
            file = Path(place) / f"{make.__name__}.parquet"
            parquet.write_table(pyarrow.Table.from_pylist(list(make(options.rows))), file)
            times: dict[str, list[tuple[float, float]]] = {who: [] for who in trees}
            for turn in range(options.turns + 1):
                for who in sorted(trees, reverse=bool(turn % 2)):
                    seconds = measured(trees[who], file)
                    if turn:  # the first brings files into memory
                        times[who].append(seconds)
            pairs = [sum(now) / sum(before) for before, now in zip(times["before"], times["now"], strict=True)]
            for who, found in times.items():
                loaded, walked = (statistics.median(one[part] for one in found) for part in (0, 1))
                both = statistics.median(map(sum, found))
                ratio = f"{statistics.median(pairs):.2f}" if who == "now" else ""
                print(f"{kind:20s} {who:8s} {loaded:6.3f} {walked:8.3f} {both:8.3f}   {ratio:>5s}", flush=True)


if __name__ == "__main__":
    main()
