"""Bug generation: verified bugs per minute, and mutants decided per minute, compared with mutmut and cosmic-ray.

    python benchmarks/bugs.py                                        # data/sample_package, ours only
    python benchmarks/bugs.py FOLDER --module pkg/part.py --tests tests/test_part.py --tools VENV
                                                                     # also mutmut and cosmic-ray out of VENV/bin

`decided` is one file and its tests, two workers each: ours run a mutant's tests until the first fails, as the others
do, and nothing is verified. mutmut's mutants that no test reaches are not counted. cosmic-ray runs one test process at
a time and starts pytest afresh for each mutant; it is stopped after a minute. `verified` is the whole source: survey,
reading, and for each bug kept three runs. Seconds of CPU are those of all processes: they hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from loraplug import Run
from loraplug_swe.mutation.candidates import find
from loraplug_swe.mutation.hunt import Hunt, _Bench
from loraplug_swe.mutation.make import box_limits
from loraplug_swe.mutation.python import Python
from loraplug_swe.mutation.source import SweBugsSource
from loraplug_swe.sandbox.checkout import stage
from loraplug_swe.sandbox.sandbox import Sandbox

SAMPLE = Path(__file__).parents[1] / "data" / "sample_package"
WORKERS = 2


@contextmanager
def clock(told: dict[str, float]) -> Any:
    """Wall-clock and CPU seconds of a block, children and their children included once they have been waited for."""

    def cpu() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in used)

    wall, begun = time.perf_counter(), cpu()
    yield
    told |= {"seconds": time.perf_counter() - wall, "cpu": cpu() - begun}


def show(name: str, count: int, told: dict[str, float], more: str = "") -> None:
    """One line of the table."""
    rates = f"{60 * count / told['seconds']:6.0f} a minute, {60 * count / told['cpu']:6.0f} a CPU minute"
    print(f"{name:28} {count:5} in {told['seconds']:6.1f} s, {told['cpu']:6.1f} of CPU: {rates}  {more}", flush=True)


def ours(folder: Path, module: str, tests: str, limit: int, scratch: Path) -> None:
    """Mutants of one file decided by its tests."""
    source = SweBugsSource(str(folder))
    staged = stage(str(folder), "HEAD", None, None, scratch)
    language, suite = Python(), Python().suite((tests,) if tests else (), (), "")
    told: dict[str, float] = {}
    verdicts: Counter[str] = Counter()
    with clock(told):
        with Sandbox(staged.tree, box_limits(source), home=scratch) as box:
            survey = suite.survey(box)
        found = find(staged.tree, language, survey, Run("b"), include=(module,) if module else (), exclude=(), kinds=())
        tries = list(found.in_order(0))[:limit]
        hunt = Hunt(staged.tree, suite, survey, box_limits(source), scratch / "journal", scratch)
        names = list(survey.tests)
        shares = [tries[at::WORKERS] for at in range(WORKERS)]

        def work(share: list[Any]) -> None:
            bench = _Bench(hunt)
            for one in share:
                chosen = [names[at] for at in one.tests]
                seconds = 3 + 6 * sum(survey.tests[name] for name in chosen)
                broken = {one.path: one.mutation.apply(found.texts[one.path])}
                verdicts[bench.run(broken, chosen, seconds, 1).verdict] += 1
            bench.close()

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(work, shares))
    show("ours, decided", len(tries), told, str(dict(verdicts)))


def mutmut(folder: Path, module: str, tests: str, tools: Path, scratch: Path) -> None:
    """The same file and tests."""
    copy = scratch / "mutmut"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".git"))
    (copy / "setup.cfg").write_text(
        f"[mutmut]\nsource_paths=\n    {module.split('/')[0]}\nonly_mutate=\n    {module}\n"
        f"pytest_add_cli_args_test_selection=\n    {tests}\n"
    )
    told: dict[str, float] = {}
    with clock(told):
        done = subprocess.run([tools / "bin" / "mutmut", "run", "--max-children", str(WORKERS)], cwd=copy,
                              capture_output=True, text=True, check=False)  # fmt: skip
    results: Counter[str] = Counter()
    for path in copy.glob("mutants/**/*.meta"):
        results.update(str(code) for code in json.loads(path.read_text())["exit_code_by_key"].values())
    untested = results.pop("33", 0)  # its exit code for "no tests"
    assert results, done.stdout[-800:]
    show("mutmut, decided", sum(results.values()), told, f"({untested} without tests)")


def cosmic_ray(folder: Path, module: str, tests: str, tools: Path, scratch: Path) -> None:
    """The same file and tests, for a minute."""
    copy = scratch / "cosmic"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".git"))
    command = f"{tools}/bin/python -m pytest -q -x -p no:cacheprovider {tests}"
    (copy / "cr.toml").write_text(
        f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = 20.0\nexcluded-modules = []\ntest-command = "{command}"\n'
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    ray = str(tools / "bin" / "cosmic-ray")
    subprocess.run([ray, "init", "cr.toml", "s.sqlite"], cwd=copy, check=True, capture_output=True)
    told: dict[str, float] = {}
    with clock(told), suppress(subprocess.TimeoutExpired):
        subprocess.run([ray, "exec", "cr.toml", "s.sqlite"], cwd=copy, check=False, capture_output=True, timeout=60)
    import sqlite3

    count = sqlite3.connect(copy / "s.sqlite").execute("select count(*) from work_results").fetchone()[0]
    show("cosmic-ray, decided", count, told, "(one process)")


def verified(folder: Path, count: int, scratch: Path) -> None:
    """The whole source on the whole suite, from nothing; then again, from its journal."""
    run = Run("b", outputs=scratch / "outputs", cache=scratch / "cache")
    for name in ("ours, verified bugs", "the same, from the journal"):
        told: dict[str, float] = {}
        with clock(told):
            rows = list(SweBugsSource(str(folder), count=count, workers=WORKERS).rows(run))
        show(name, len(rows), told)


def main() -> None:
    """Print the table."""
    ask = argparse.ArgumentParser()
    ask.add_argument("folder", type=Path, nargs="?", default=SAMPLE)
    ask.add_argument("--module", default="")
    ask.add_argument("--tests", default="")
    ask.add_argument("--tools", type=Path)
    ask.add_argument("--count", type=int, default=200)
    ask.add_argument("--limit", type=int, default=500)
    given = ask.parse_args()
    folder = given.folder.resolve()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        (scratch / "ours").mkdir()
        ours(folder, given.module, given.tests, given.limit, scratch / "ours")
        if given.tools:
            mutmut(folder, given.module, given.tests, given.tools.absolute(), scratch)
            cosmic_ray(folder, given.module, given.tests, given.tools.absolute(), scratch)
        verified(folder, given.count, scratch)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
