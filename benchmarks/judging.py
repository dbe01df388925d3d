"""The cost of judging: correct answers to the sample tasks, judged by this checkout and by another one in turns.

    python benchmarks/judging.py                                  # this tree alone
    python benchmarks/judging.py --beside OTHER/.venv/bin/python  # and the loraplug of another environment
    python benchmarks/judging.py --beside … --bugs                # the making of kept bugs instead

Each turn is a process of its own: it makes 24 tasks ready, then judges the answer that takes the bug away, which has to
be resolved. Seconds of CPU are those of the process and of all that it started, tests and sandbox included: they hold
on a busy machine too. The last line is this tree's part of the other one's, the middle one of the turns.

Measured beside the tree before verdicts were confirmed (979de18), on two processors at a load of 1.1, in turns:

    this tree beside 979de18   seconds of CPU                    by the clock
    24 tasks judged            8.68, 8.80, 9.31 / 8.48, 8.56, 8.85  1.13 to 1.17
    made ready as well         1.03                              1.02 to 1.05
    24 kept bugs               6.88, 7.06 / 7.33, 7.29: 0.97     0.89 to 0.91
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1] / "data"
PHASES = ("ready", "judged", "together")


def used() -> tuple[float, float]:
    """Wall-clock and CPU seconds so far, those of children included once they have been waited for."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in times)


def judging(repo: Path, limit: int) -> dict[str, Any]:
    """Seconds (wall, CPU) to make the tasks ready and to judge their right answers."""
    from loraplug_swe.edits import render
    from loraplug_swe.evaluation import judge as module
    from loraplug_swe.evaluation.bench import Checking
    from loraplug_swe.evaluation.cases import Case, PromptOptions, tongue_of
    from loraplug_swe.evaluation.reading import Task, read_tasks
    from loraplug_swe.evaluation.workroom import Workroom

    older: Any = getattr(module, "Judge", None)  # what judged before there was a function
    judged: Any = older().judge if older else module.judge

    tasks = [one for one in read_tasks(DATA / "sample_tasks") if isinstance(one, Task)][:limit]
    begun = used()
    with (
        tempfile.TemporaryDirectory() as place,
        Workroom({"": str(repo)}, None, Checking(), Path(place), True) as room,
    ):
        cases = [room.prepare(task, PromptOptions()) for task in tasks]
        ready = used()
        for case in cases:
            assert isinstance(case, Case), case
            bench, path = room.bench(case.task), case.task.file
            answer = render(path, case.broken[path] or "", bench.texts[path], case.edit,
                            tongue_of(case.task).functions, case.target)  # fmt: skip
            verdict = judged(bench, case, answer)
            assert verdict.status == "resolved", (case.task.id, verdict)
        room.bench(tasks[0]).runner.close()
    ended = used()  # when the worker has been waited for, whose CPU is counted with the judging
    return {"count": len(cases), "ready": _between(begun, ready), "judged": _between(ready, ended),
            "together": _between(begun, ended)}  # fmt: skip


def bugs(limit: int) -> dict[str, Any]:
    """Seconds (wall, CPU) for so many kept bugs, from nothing."""
    from loraplug import Run
    from loraplug_swe.mutation.source import SweBugsSource

    with tempfile.TemporaryDirectory() as place:
        run, begun = Run("b", outputs=Path(place, "outputs"), cache=Path(place, "cache")), used()
        rows = list(SweBugsSource(str(DATA / "sample_package"), count=limit, workers=1).rows(run))
        ended = used()
    return {"count": len(rows), "together": _between(begun, ended)}


def end_gently() -> None:
    """Let workers end by themselves where they are closed: the CPU of what is killed inside is told to nobody."""
    from loraplug_swe.mutation import python

    worker: Any = getattr(python, "Worker", None)
    if worker is None:  # before there was one, testers did so
        return
    close = worker.close

    def gently(self: Any) -> None:
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        close(self)

    worker.close = gently


def _between(begun: tuple[float, float], ended: tuple[float, float]) -> list[float]:
    return [ended[0] - begun[0], ended[1] - begun[1]]


def turn(python: str, repo: Path, limit: int, making: bool) -> dict[str, Any]:
    """One process of an environment's own."""
    command = [python, __file__, "--turn", str(repo), "--limit", str(limit), *(["--bugs"] if making else [])]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    """Print the table."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--beside", default="", help="the Python of another environment")
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--limit", type=int, default=24, help="tasks, or bugs")
    ask.add_argument("--bugs", action="store_true")
    ask.add_argument("--turn", type=Path, help=argparse.SUPPRESS)
    given = ask.parse_args()
    if given.turn:
        end_gently()
        print(json.dumps(bugs(given.limit) if given.bugs else judging(given.turn, given.limit)))
        return
    sides = {"this tree": sys.executable, **({"the other": given.beside} if given.beside else {})}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as place:
        repo = Path(place, "repo")
        subprocess.run([sys.executable, DATA / "build_sample_repo.py", repo], check=True, capture_output=True)
        for at in range(given.rounds):
            for name in list(sides)[:: 1 if at % 2 == 0 else -1]:
                told = turn(sides[name], repo, given.limit, given.bugs)
                turns[name].append(told)
                words = [f"{phase} {told[phase][0]:6.1f} s, {told[phase][1]:6.2f} of CPU" for phase in PHASES
                         if phase in told]  # fmt: skip
                print(f"{name:10} {told['count']:4}: {';  '.join(words)}", flush=True)
    if given.beside:
        shares = [
            f"{phase} {statistics.median(_share(*pair, phase) for pair in zip(*turns.values(), strict=True)):.2f}"
            for phase in PHASES
            if phase in turns["this tree"][0]
        ]
        print(f"CPU, this tree / the other: {', '.join(shares)}")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


def _share(ours: dict[str, Any], theirs: dict[str, Any], phase: str) -> float:
    return float(ours[phase][1] / ours["count"] / (theirs[phase][1] / theirs["count"]))


if __name__ == "__main__":
    main()
