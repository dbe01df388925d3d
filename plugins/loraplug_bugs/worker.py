"""Runs pytest for `loraplug_bugs.python`, inside the sandbox and under the Python the tests want.

A program, not a module: it imports nothing but the standard library, pytest, (to survey) coverage, and by its path
`telling.py`, which tells how tests ended.

    worker.py survey ARGUMENTS…   the whole suite, with the tests that run each line
    worker.py plain ARGUMENTS…    the whole suite
    worker.py serve MODULES       jobs, one JSON object a line on stdin, each answered by one line

`serve` imports pytest and all the modules the suite needs from outside the tree once, and forks for every job: what a
job changes in the process ends with it. Each job is a fresh process (`once`) where there is no fork
(Windows), and where pytest itself stands on the code under test. What tests print
is thrown away; answers go to a copy of stdout that tests do not know.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

ALWAYS = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "-p", "no:cov", "-o", "addopts=",
          "-W", "ignore"]  # fmt: skip
MANY = 40  # from so many ids on, whole files are collected and filtered
Say = dict[str, Any]


def beside(file: str) -> Any:
    """The module in a file of this folder: not one of `sys.modules`, where the tests could meet it."""
    spec: Any = util.spec_from_file_location(f"loraplug_bugs_{file.removesuffix('.py')}", Path(__file__).parent / file)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from loraplug_bugs import telling
else:
    telling = beside("telling.py")


def run_pytest(arguments: Sequence[str], watch: telling.Watch) -> int:
    """One session of pytest in this process."""
    return int(pytest.main([*ALWAYS, *arguments, "--maxfail=0"], plugins=[watch]))  # whatever the arguments say


def run_tests(job: Say) -> Say:
    """The tests of one job."""
    tests = job["tests"]
    if len(tests) > MANY:
        places, wanted = list(dict.fromkeys(test.split("::")[0] for test in tests)), tests
    else:
        places, wanted = tests, None
    watch = telling.Watch(wanted, stop_after=job["stop_after"])
    code = run_pytest([*job["arguments"], *places], watch)
    if watch.broken or code not in (0, 1, 2) or not watch.outcomes:
        return {"verdict": "broken", "detail": watch.broken[:1] or [f"pytest ended with {code}"]}
    if not watch.failures and (idle := [test for test in tests if watch.outcomes.get(test) != "passed"]):
        return {"verdict": "broken", "detail": [f"{idle[0]} did not run, or was skipped"]}
    return {"verdict": "failed" if watch.failures else "passed", "failures": watch.failures, "counts": watch.counts()}


# the whole suite


def survey(arguments: Sequence[str]) -> Say:
    """All tests, once, and the lines each of them runs."""
    import coverage

    cover = coverage.Coverage(data_file=None, source=[telling.TREE], config_file=False, messages=False)
    watch = telling.Watch(coverage=cover)
    cover.start()
    cover.switch_context("")
    code = run_pytest(arguments, watch)
    cover.stop()
    order = {test: at for at, test in enumerate(watch.outcomes)} | {"": -1}
    lines: dict[str, dict[int, list[int]]] = {}
    data = cover.get_data()
    for path in data.measured_files():
        by_line = data.contexts_by_lineno(path)
        lines[telling.relative(path)] = {line: sorted(order[one] for one in tests if one in order)
                                 for line, tests in by_line.items()}  # fmt: skip
    return told(watch, code) | {"lines": lines, "modules": foreign_modules()}


def plain(arguments: Sequence[str]) -> Say:
    """All tests, once."""
    watch = telling.Watch()
    code = run_pytest(arguments, watch)
    return told(watch, code) | {"modules": foreign_modules()}


def told(watch: telling.Watch, code: int) -> Say:
    """What a whole run gave."""
    return {"code": code, "outcomes": watch.outcomes, "seconds": watch.seconds, "broken": watch.broken,
            "failures": watch.failures[:5]}  # fmt: skip


def foreign_modules() -> list[str]:
    """Names of what was imported from outside the tree."""
    return [name for name, module in list(sys.modules.items()) if not in_tree(module) and name != "__main__"]


def in_tree(module: ModuleType) -> bool:
    """Whether a module's file, or one of a namespace package's folders, lies in the tree."""
    places = [getattr(module, "__file__", None), *list(getattr(module, "__path__", None) or [])]
    return any(isinstance(place, str) and place.startswith(telling.TREE + os.sep) for place in places)


# jobs


def serve(modules: Sequence[str], out: int) -> None:
    """Answer jobs until stdin ends."""
    for name in modules:
        with contextlib.suppress(BaseException):  # what cannot be imported alone is imported by the tests
            importlib.import_module(name)
    stale = any(in_tree(module) for module in list(sys.modules.values()))  # each job must read the tree's code itself
    if stale and modules:
        os.execv(sys.executable, [sys.executable, __file__, "serve", "[]", str(out)])  # noqa: S606
    run = fresh if stale else forked  # stale even so: pytest itself stands on the code
    remember_distributions()
    gc.collect()
    gc.freeze()
    answer(out, {"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        begun = time.perf_counter()
        done = run(job)
        answer(out, done | {"seconds": time.perf_counter() - begun})


def remember_distributions() -> None:
    """Read what is installed once: pytest looks for its plugins twice a session, in every distribution there is."""
    known, path, plain = list(metadata.distributions()), list(sys.path), metadata.distributions
    entries = {id(one): one.entry_points for one in known}
    read: Any = metadata.Distribution.entry_points.fget  # type: ignore[attr-defined]

    def entry_points(self: metadata.Distribution) -> Any:
        return entries[id(self)] if id(self) in entries else read(self)

    def distributions(**context: Any) -> Any:
        return iter(known) if not context and sys.path == path else plain(**context)

    metadata.Distribution.entry_points = property(entry_points)  # type: ignore[assignment]
    metadata.distributions = distributions


def forked(job: Say) -> Say:
    """A job in a child of this process, where there is fork."""
    if sys.platform == "win32":
        return fresh(job)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os.close(reading)
        try:
            done = run_tests(job)
        except BaseException as error:
            done = {"verdict": "crash", "detail": [f"{type(error).__name__}: {error}"[: telling.LONG]]}
        with open(writing, "wb") as pipe:  # noqa: PTH123
            pipe.write(json.dumps(done).encode() + b"\n")
        os._exit(0)
    os.close(writing)
    text, late = read_until(reading, time.monotonic() + job["seconds"])
    for kill in (os.killpg, os.kill):  # the group may not be there yet
        with contextlib.suppress(OSError):
            kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    end_strays()
    if late:
        return {"verdict": "time"}
    try:
        return json.loads(text)  # type: ignore[no-any-return]
    except ValueError:
        return {"verdict": "crash"}


def read_until(pipe: int, deadline: float) -> tuple[bytes, bool]:
    """One line out of a pipe, and whether the time was over before its end."""
    parts = []
    try:
        while (left := deadline - time.monotonic()) > 0:
            if select.select([pipe], [], [], left)[0]:
                part = os.read(pipe, 1 << 16)
                parts.append(part)
                if not part or part.endswith(b"\n"):  # a child of the tests may keep the pipe open
                    return b"".join(parts), False
        return b"", True
    finally:
        os.close(pipe)


def end_strays() -> None:
    """End what a job left behind, where this process and its first one are all that may be in the process table."""
    if sys.platform != "win32" and own_table():
        for name in os.listdir("/proc"):  # noqa: PTH208
            if name.isdecimal() and name not in ("1", str(os.getpid())):
                with contextlib.suppress(OSError):
                    os.kill(int(name), signal.SIGKILL)


@lru_cache(1)
def own_table() -> bool:
    """Whether the first process this one sees is the jail's."""
    try:
        return os.getppid() == 1 and b"jail.py" in Path("/proc/1/cmdline").read_bytes()
    except OSError:
        return False


def fresh(job: Say) -> Say:
    """A job in a new process."""
    try:
        done = subprocess.run([sys.executable, __file__, "once", json.dumps(job)], capture_output=True,
                              timeout=job["seconds"], check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"verdict": "time"}
    try:
        return json.loads(done.stdout)  # type: ignore[no-any-return]
    except ValueError:
        return {"verdict": "crash"}


def answer(out: int, told: Say) -> None:
    """One line to whoever asked."""
    data = json.dumps(told).encode() + b"\n"
    while data:
        data = data[os.write(out, data) :]


def main() -> None:
    """See the module."""
    # `python FILE` puts the file's folder first, where code under test that has an `options` would find ours
    sys.path[:] = [place for place in sys.path if place != str(Path(__file__).parent)]
    mode, *arguments = sys.argv[1:]
    if mode == "serve":
        out = int(arguments[1]) if len(arguments) > 1 else keep_stdout()
        serve(json.loads(arguments[0]), out)
        return
    out = keep_stdout()
    if mode == "once":
        answer(out, run_tests(json.loads(arguments[0])))
    else:
        answer(out, survey(arguments) if mode == "survey" else plain(arguments))


def keep_stdout() -> int:
    """The real stdout under a number of its own; what tests write to theirs goes nowhere."""
    out = os.dup(1)
    os.set_inheritable(out, True)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return out


if __name__ == "__main__":
    main()
