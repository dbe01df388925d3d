"""How time and memory grow with the number of bugs made, rows encoded and repositories processed.

    python benchmarks/growth.py                          # bugs to 1,000, rows to 1,000,000, repositories to 30
    python benchmarks/growth.py bugs --sizes 10,100,1000,10000
    python benchmarks/growth.py rows repositories        # these two alone

Each size is measured in a process of its own, from an empty cache, on made-up code and rows that grow with the size:
`bugs` is the source swe-bugs on one package of a function for every four bugs; `rows` encodes chats of two turns (ids,
masks, file) with a small tokenizer; `repositories` makes five bugs in each of so many git repositories. CPU seconds are
those of all processes that were waited for: of the tests of bugs, which are ended, they miss a part, so that wall-clock
time counts there. Memory is the largest of the process and of any it started. The slope is that of the logarithms, over
all sizes and between the last two, where fixed costs weigh least: 1 is in proportion to the work, 2 its square.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = {
    "bugs": (10, 30, 100, 300, 1_000),
    "rows": (1_000, 10_000, 100_000, 1_000_000),
    "repositories": (1, 3, 10, 30),
}
A_FUNCTION, A_MODULE, A_REPOSITORY = 4, 10, 5  # bugs in a function, functions in a module, bugs in a repository
FUNCTION = '''

def f{at}(value, low=0, high={top}):
    """Keep a value between two bounds, and count how far it was away."""
    away = 0
    if value < low:
        away = low - value + {at}
        value = low
    elif value > high:
        away = value - high + {at}
        value = high
    return value * 2 + 1, away
'''
TEST = """

def test_f{at}():
    assert f{at}(5) == (11, 0)
    assert f{at}(-3) == (1, 3 + {at})
    assert f{at}({top} + 2) == ({top} * 2 + 1, 2 + {at})
    assert f{at}({top}) == ({top} * 2 + 1, 0)
    assert f{at}(0) == (1, 0)
"""


def write_package(folder: Path, functions: int) -> None:
    """A package of so many functions, each with a test that calls no other."""
    (folder / "tests").mkdir(parents=True)
    for number, first in enumerate(range(0, functions, A_MODULE)):
        its = range(first, min(first + A_MODULE, functions))
        made = [{"at": at, "top": 10 + at} for at in its]
        code = f'"""Part {number}."""' + "".join(FUNCTION.format(**one) for one in made)
        names = ", ".join(f"f{one['at']}" for one in made)
        tests = f"from part{number} import {names}\n" + "".join(TEST.format(**one) for one in made)
        (folder / f"part{number}.py").write_text(code)
        (folder / "tests" / f"test_part{number}.py").write_text(tests)


def bugs(size: int, place: Path) -> None:
    """So many bugs in one package."""
    write_package(place / "code", math.ceil(size / A_FUNCTION))
    _hunt(place / "code", size, place)


def repositories(size: int, place: Path) -> None:
    """Bugs in so many repositories, one after the other."""
    for number in range(size):
        folder = place / f"repository-{number}"
        write_package(folder, 2 * A_REPOSITORY)
        git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-C", str(folder)]
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
            subprocess.run([*git, *words], check=True)
        _hunt(folder, A_REPOSITORY, place)


def _hunt(folder: Path, count: int, place: Path) -> None:
    from loraplug import Run
    from loraplug_swe.mutation.source import SweBugsSource

    run = Run(f"growth-{folder.name}", outputs=place / "outputs", cache=place / "cache")
    made = sum(1 for _ in SweBugsSource(str(folder), count=count, per_function=A_FUNCTION, timeout=20.0).rows(run))
    if made != count:
        raise SystemExit(f"{made} bugs where {count} were wanted")


def rows(size: int, place: Path) -> None:
    """So many rows encoded."""
    from datasets import Dataset

    from loraplug import Run
    from loraplug.testing import tiny_tokenizer
    from loraplug_chat.formatter import ChatTemplate

    def talks() -> Any:
        for at in range(size):
            words = " ".join(str(at * step % 9973) for step in range(1, 12))
            yield {"messages": [{"role": "user", "content": f"add {words}"},
                                {"role": "assistant", "content": f"the sum of row {at} is {at * 66}"}]}  # fmt: skip

    data = Dataset.from_generator(talks, cache_dir=str(place / "data"))
    encoded = ChatTemplate(packing=False).encode(data, tiny_tokenizer(), Run("growth", cache=place / "cache"))
    if len(encoded.dataset) != size:
        raise SystemExit(f"{len(encoded.dataset)} rows where {size} were given")


def measure(kind: str, size: int) -> dict[str, float]:
    """One size in a process of its own: wall-clock and CPU seconds, and megabytes."""
    with tempfile.TemporaryDirectory(prefix="loraplug-growth-") as place:
        env = {**os.environ, "HF_HOME": f"{place}/hf"}
        # a shell in between: Linux counts what the starting process held as a peak of the one it starts
        command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, __file__, "--one", kind, str(size), place]
        done = subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"{kind} {size} ended with {done.returncode}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def one(kind: str, size: int, place: Path) -> None:
    """Do the work, and print what it took."""
    begun = time.perf_counter()
    {"bugs": bugs, "rows": rows, "repositories": repositories}[kind](size, place)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    told = {"wall": time.perf_counter() - begun, "cpu": sum(each.ru_utime + each.ru_stime for each in used),
            "memory": max(each.ru_maxrss for each in used) / 1024}  # fmt: skip
    print(json.dumps(told))


def slope(points: list[tuple[int, float]]) -> float:
    """Of the straight line through the logarithms, by least squares."""
    x, y = ([math.log(point[axis]) for point in points] for axis in (0, 1))
    middle, height = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True))
    return over / sum((a - middle) ** 2 for a in x)


def curve(kind: str, sizes: list[int]) -> None:
    """Measure all sizes of one kind, and print them with their slopes."""
    print(f"{kind:14}  wall s    CPU s    MB    ms each", flush=True)
    told = {}
    for size in sizes:
        told[size] = took = measure(kind, size)
        each = 1000 * took["wall"] / size
        print(f"{size:14,} {took['wall']:7.1f} {took['cpu']:8.1f} {took['memory']:5.0f} {each:10.2f}", flush=True)
    for name, words in (("wall", "time"), ("cpu", "CPU seconds"), ("memory", "memory")) if len(sizes) > 1 else ():
        points = [(size, took[name]) for size, took in told.items()]
        print(f"slope of {words}: {slope(points):.2f}, between the last two {slope(points[-2:]):.2f}", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(SIZES)}; all by default")
    parser.add_argument("--sizes", help="such as 10,100,1000, for one kind")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "SIZE", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one[0], int(given.one[1]), Path(given.one[2]))
        return
    kinds = given.kinds or list(SIZES)
    if unknown := [kind for kind in kinds if kind not in SIZES]:
        parser.error(f"no kind {unknown[0]!r}: {', '.join(SIZES)}")
    if given.sizes and len(kinds) != 1:
        parser.error("--sizes is of one kind: name it")
    for kind in kinds:
        curve(kind, [int(size) for size in given.sizes.split(",")] if given.sizes else list(SIZES[kind]))


if __name__ == "__main__":
    main()
