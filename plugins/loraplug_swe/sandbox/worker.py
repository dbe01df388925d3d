"""Runs pytest for `loraplug_swe.mutation.python`, inside the sandbox and under the Python the tests want.

A program, not a module: it imports nothing but the standard library, pytest, (to survey) coverage, and by their paths
`pytest_reporter.py`, which tells how tests ended, and `pipes.py`.

    worker.py survey ROOTS SECONDS ARGUMENTS…   the whole suite, with the tests that run each line
    worker.py plain ROOTS SECONDS ARGUMENTS…    the whole suite
    worker.py serve ROOTS MODULES               jobs on stdin, each answered by one line
    worker.py once                              one job, in the process that `serve` starts for it

A job comes as its length in 8 hexadecimal digits, as JSON, and with a random word of 32 characters behind it, which the
answer has to begin with. `serve` imports pytest and all the modules the suite needs from outside the tree once, and
forks for every job: what a job changes in the process ends with it, and so does whatever it has started. No code of
the tree runs in this process, so each job begins in one where none ever ran; the pipes to whoever asks are closed in
it, and the word is read only when the job is over. A job is a new interpreter where there is no fork (Windows), and
where pytest itself stands on the code under test. What tests print is thrown away.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

ALWAYS = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "-p", "no:cov", "-o", "addopts=",
          "-W", "ignore", "--tb=no"]  # fmt: skip
MANY = 40  # from so many ids on, whole files are collected and filtered
Say = dict[str, Any]


def beside(file: str) -> Any:
    """The module in a file of this folder: not one of `sys.modules`, where the tests could meet it."""
    spec: Any = util.spec_from_file_location(
        f"loraplug_sandbox_{file.removesuffix('.py')}", Path(__file__).parent / file
    )
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from loraplug_swe.sandbox import pipes
    from loraplug_swe.sandbox import pytest_reporter as telling
else:
    pipes, telling = beside("pipes.py"), beside("pytest_reporter.py")


def run_pytest(arguments: Sequence[str], watch: telling.Watch) -> int:
    """One session of pytest in this process."""
    return int(pytest.main([*ALWAYS, *arguments, "--maxfail=0"], plugins=[watch]))  # whatever the arguments say


def run_tests(job: Say) -> Say:
    """The tests of one job; with `report` how each of them ended, for one who believes no summary."""
    tests = job["tests"]
    if len(tests) > MANY:
        places, wanted = list(dict.fromkeys(test.split("::")[0] for test in tests)), tests
    else:
        places, wanted = tests, None
    watch = telling.Watch(wanted, stop_after=job["stop_after"])
    code = run_pytest([*job["arguments"], *places], watch)
    if job.get("report"):
        return {"verdict": "passed", "code": code, "outcomes": watch.outcomes, "failures": watch.failures,
                "detail": watch.broken[:1]}  # fmt: skip
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


# jobs: none of their code runs in this process, and none of this process' descriptors is in theirs


def serve(modules: Sequence[str], roots: Sequence[str], asked: int, out: int) -> None:
    """Answer jobs until there are none any more.

    Args:
        modules: to import first, for all jobs; those that the tree brings itself are left to them.
        roots: folders of the tree that the tests import from.
    """
    for name in modules:
        if not brings(roots, name.split(".")[0]):
            with contextlib.suppress(BaseException):  # what cannot be imported alone is imported by the tests
                importlib.import_module(name)
    stands = any(brings(roots, name) for name in {name.split(".")[0] for name in list(sys.modules)})
    remember_distributions([*roots, *sys.path])
    gc.collect()
    gc.freeze()
    pipes.reply(asked, out, {"ready": True})
    while (text := pipes.read_exactly(asked, 8)) is not None:
        job = json.loads(pipes.read_exactly(asked, int(text, 16)) or b"{}")
        begun = time.perf_counter()
        # pytest itself stands on the tree's code, or the tree changes what every interpreter does first
        new = stands or brings(roots, "sitecustomize") or brings(roots, "usercustomize")
        done = fresh(job) if new or sys.platform == "win32" else apart(partial(run_tests, job), job["seconds"], roots)
        pipes.reply(asked, out, done | {"seconds": time.perf_counter() - begun})


def brings(roots: Sequence[str], name: str) -> bool:
    """Whether a module of this name would be imported from the tree."""
    return any(os.path.exists(f"{root}/{name}.py") or os.path.exists(f"{root}/{name}/__init__.py") for root in roots)  # noqa: PTH110


def remember_distributions(path: list[str]) -> None:
    """Read what is installed once: pytest looks for its plugins twice a session, in every distribution there is."""
    known, plain = list(metadata.distributions(path=path)), metadata.distributions
    entries = {id(one): one.entry_points for one in known}
    read: Any = metadata.Distribution.entry_points.fget  # type: ignore[attr-defined]

    def entry_points(self: metadata.Distribution) -> Any:
        return entries[id(self)] if id(self) in entries else read(self)

    def distributions(**context: Any) -> Any:
        return iter(known) if not context and sys.path == path else plain(**context)

    metadata.Distribution.entry_points = property(entry_points)  # type: ignore[assignment]
    metadata.distributions = distributions


def apart(action: Callable[[], Say], seconds: float, roots: Sequence[str] = ()) -> Say:
    """What `action` says in a child of this process, which is given a pipe of its own and nothing else.

    The child ends as `action` says (`code`); how it did end is told as `exit`.
    """
    if sys.platform == "win32":
        raise OSError("there is no fork")  # where it is called a new interpreter is started instead
    reading, writing = os.pipe()
    leave, child = os._exit, os.fork()
    if not child:
        os.setpgid(0, 0)
        for number in (reading, *pipes.PIPES):
            os.close(number)
        pipes.private(False)
        sys.path[:0] = roots
        if roots:
            os.environ["PYTHONPATH"] = os.pathsep.join(roots)
        try:
            done = action()
        except BaseException as error:
            done = {"verdict": "crash", "detail": [f"{type(error).__name__}: {error}"[: telling.LONG]]}
        pipes.write_all(writing, json.dumps(done).encode() + b"\n")
        leave(done.get("code", 0))
    os.close(writing)
    deadline = time.monotonic() + seconds
    text, why = pipes.read_until(reading, deadline)
    status = None if why else pipes.wait(child, deadline)
    for kill in (os.killpg, os.kill):  # the group may not be there yet
        with contextlib.suppress(OSError):
            kill(child, signal.SIGKILL)
    if status is None:
        why = why or "time"
        os.waitpid(child, 0)
    pipes.end_strays()
    return {"verdict": why} if status is None else pipes.parsed(text) | {"exit": os.waitstatus_to_exitcode(status)}


def fresh(job: Say) -> Say:
    """A job in a new interpreter; with the code it exits with."""
    with tempfile.TemporaryFile() as given:
        given.write(json.dumps(job).encode())
        given.seek(0)
        process = subprocess.Popen([sys.executable, __file__, "once"], stdin=given, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": job["path"]},
                                   start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + job["seconds"]
    try:
        text, why = pipes.read_until(process.stdout.fileno(), deadline, close=False)  # type: ignore[union-attr]
        if not why:
            process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        why = "time"
    finally:
        if sys.platform == "win32":
            process.kill()
        else:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        pipes.end_strays()
    return {"verdict": why} if why else pipes.parsed(text) | {"exit": process.returncode}


def main() -> None:
    """See the module."""
    # `python FILE` puts the file's folder first, where code under test that has an `options` would find ours
    sys.path[:] = [place for place in sys.path if place != str(Path(__file__).parent)]
    mode, *arguments = sys.argv[1:]
    if mode == "once":  # the job's own process: its stdout is the pipe made for it
        job = json.loads(sys.stdin.buffer.read())
        _, out = pipes.keep_pipes()
        done = run_tests(job)
        pipes.write_all(out, json.dumps(done).encode() + b"\n")
        sys.exit(done.get("code", 0))
    pipes.private(True)
    asked, out = pipes.keep_pipes()
    roots = json.loads(arguments.pop(0))
    if mode == "serve":
        serve(json.loads(arguments[0]), roots, asked, out)
        return
    seconds = float(arguments.pop(0))
    whole = partial(survey if mode == "survey" else plain, arguments)
    if sys.platform == "win32":
        sys.path[:0] = roots
        pipes.reply(asked, out, whole())
    else:
        pipes.reply(asked, out, apart(whole, seconds, roots))


if __name__ == "__main__":
    main()
