"""Runs pytest for `loraplug_bugs.python`, inside the sandbox and under the Python the tests want.

A program, not a module: it imports nothing but the standard library, pytest and (to survey) coverage.

    worker.py survey ARGUMENTS…   the whole suite, with the tests that run each line
    worker.py plain ARGUMENTS…    the whole suite
    worker.py serve MODULES       jobs, one JSON object a line on stdin, each answered by one line

`serve` imports pytest and all the modules the suite needs from outside the tree once, and forks for every job: what a
job changes in the process ends with it. Each job is a fresh process (`once`) where there is no fork
(Windows), and where pytest itself stands on the code under test. What tests print
is thrown away; answers go to a copy of stdout that tests do not know.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import gc
import importlib
import json
import linecache
import os
import re
import reprlib
import select
import signal
import subprocess
import sys
import time
import traceback
import unittest
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

TREE = str(Path.cwd())
ALWAYS = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "-p", "no:cov", "-o", "addopts=",
          "-W", "ignore"]  # fmt: skip
MANY = 40  # from so many ids on, whole files are collected and filtered
LONG = 400  # characters of a value or a message
Say = dict[str, Any]


class Watch:
    """A pytest plugin: what was collected, how each test ended, and why."""

    def __init__(self, wanted: Sequence[str] | None = None, coverage: Any = None) -> None:
        self.wanted = None if wanted is None else set(wanted)
        self.coverage = coverage
        self.seconds: dict[str, float] = {}
        self.outcomes: dict[str, str] = {}
        self.failures: list[Say] = []
        self.broken: list[str] = []
        self.compared: tuple[str, str, str] | None = None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave only the tests asked for."""
        if self.wanted is not None:
            items[:] = [item for item in items if item.nodeid in self.wanted]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be imported."""
        if report.failed:
            self.broken.append(f"{report.nodeid}: {report.longreprtext[-LONG:]}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Tell coverage which test runs."""
        if self.coverage is not None:
            self.coverage.switch_context(item.nodeid)
        self.compared = None
        begun = time.perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - begun
            if self.coverage is not None:
                self.coverage.switch_context("")

    @pytest.hookimpl(tryfirst=True)
    def pytest_assertrepr_compare(self, op: str, left: object, right: object) -> None:
        """Remember what an assert compared, for `expected` and `actual`."""
        self.compared = (op, shown(left), shown(right))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        """Keep the worst outcome of a test's phases, and the first failure."""
        report: Any = yield
        if report.failed:
            if self.outcomes.get(item.nodeid) != "failed" and call.excinfo is not None:
                self.failures.append(explain(item.nodeid, call.excinfo.value, self.compared))
            self.outcomes[item.nodeid] = "failed"
        elif report.when == "call" or report.skipped:
            self.outcomes.setdefault(item.nodeid, "skipped" if report.skipped else report.outcome)
        return report  # type: ignore[no-any-return]


def run_pytest(arguments: Sequence[str], watch: Watch) -> int:
    """One session of pytest in this process."""
    return int(pytest.main([*ALWAYS, *arguments], plugins=[watch]))


def run_tests(job: Say) -> Say:
    """The tests of one job."""
    tests = job["tests"]
    if len(tests) > MANY:
        places, wanted = list(dict.fromkeys(test.split("::")[0] for test in tests)), tests
    else:
        places, wanted = tests, None
    watch = Watch(wanted)
    code = run_pytest([*job["arguments"], f"--maxfail={job['stop_after']}", *places], watch)
    if watch.broken or code not in (0, 1, 2) or not watch.outcomes:
        return {"verdict": "broken", "detail": watch.broken[:1] or [f"pytest ended with {code}"]}
    if not watch.failures and (idle := [test for test in tests if watch.outcomes.get(test) != "passed"]):
        return {"verdict": "broken", "detail": [f"{idle[0]} did not run, or was skipped"]}
    return {"verdict": "failed" if watch.failures else "passed", "failures": watch.failures}


# why a test failed


def explain(test: str, error: BaseException, compared: tuple[str, str, str] | None) -> Say:
    """A failure as a `Failure` of `loraplug_bugs.language`."""
    frames = list(traceback.walk_tb(error.__traceback__))
    trace = [
        (relative(frame.f_code.co_filename), line, frame.f_code.co_name,
         linecache.getline(frame.f_code.co_filename, line).strip()[:200])
        for frame, line in frames
        if frame.f_code.co_filename.startswith(TREE + os.sep)
    ]  # fmt: skip
    told: Say = {"test": test, "error": type(error).__name__, "message": clean(str(error))[:LONG], "trace": trace,
                 "check": "", "expected": "", "actual": ""}  # fmt: skip
    if trace:
        place = next(one for one in reversed(trace) if one[0] == trace[0][0])  # the last one in the test's own file
        statement = statement_at(str(Path(TREE, place[0])), place[1])
        told["check"] = ast.unparse(statement)[:LONG] if statement is not None else place[3]
        told["expected"], told["actual"] = sides(statement, error, frames, compared if place == trace[-1] else None)
    return told


def statement_at(path: str, line: int) -> ast.stmt | None:
    """The innermost statement on a line of a file; of a compound one nothing."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return None
    found = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)
             and node.lineno <= line <= (node.end_lineno or node.lineno) and not hasattr(node, "body")]  # fmt: skip
    return min(found, key=lambda node: (node.end_lineno or node.lineno) - node.lineno, default=None)


def sides(
    statement: ast.stmt | None,
    error: BaseException,
    frames: Sequence[tuple[FrameType, int]],
    compared: tuple[str, str, str] | None,
) -> tuple[str, str]:
    """What a failed check expected and what it got, as text; empty where it cannot be told."""
    if not isinstance(error, AssertionError | pytest.fail.Exception):
        return "", f"{type(error).__name__}: {clean(str(error))[:LONG]}"
    asserting = next((frame for frame, _ in frames if frame.f_code.co_filename == unittest.case.__file__
                      and {"first", "second"} <= frame.f_locals.keys()), None)  # fmt: skip
    if asserting is not None:
        call = getattr(statement, "value", None)
        arguments = call.args[:2] if isinstance(call, ast.Call) else []
        pair = shown(asserting.f_locals["first"]), shown(asserting.f_locals["second"])
        return ordered(arguments, pair) if asserting.f_code.co_name == "assertEqual" else ("", "")
    if (match := re.match(r"DID NOT RAISE (.+)|(\S+) not raised", str(error))) is not None:
        return (match[1] or match[2])[:LONG], "no exception"
    test = statement.test if isinstance(statement, ast.Assert) else None
    if compared is not None and compared[0] == "==" and isinstance(test, ast.Compare) and len(test.ops) == 1:
        return ordered([test.left, test.comparators[0]], compared[1:])
    return "", ""


def ordered(sources: Sequence[ast.expr], pair: tuple[str, str]) -> tuple[str, str]:
    """(expected, actual): what was expected is the side written out, as `{1}` or `set([1])` is, else the right one."""
    made = [any(map(computes, ast.walk(one))) for one in sources]
    return (pair[0], pair[1]) if made == [False, True] else (pair[1], pair[0])


def computes(node: ast.AST) -> bool:
    """Whether a value comes from elsewhere; a call of a builtin type writes one out."""
    if isinstance(node, ast.Call):
        return not (isinstance(node.func, ast.Name) and isinstance(getattr(builtins, node.func.id, None), type))
    return isinstance(node, ast.Attribute)


class _Repr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 4, 200, 200, 60
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxdeque = 20


_REPR = _Repr()


def shown(value: object) -> str:
    """A value as short text."""
    try:
        return clean(_REPR.repr(value))[:LONG]
    except Exception as error:
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"


def clean(text: str) -> str:
    """Text without addresses, and without the places of the sandbox."""
    text = text.replace(TREE + os.sep, "").replace(TREE, ".")
    for name in ("TMPDIR", "HOME"):
        if os.environ.get(name):
            text = text.replace(os.environ[name], "/tmp" if name == "TMPDIR" else "~")  # noqa: S108
    return re.sub(r"\b0x[0-9a-fA-F]{5,}\b", "0x...", text)


def relative(path: str) -> str:
    """A path below the tree."""
    return path[len(TREE) + 1 :].replace(os.sep, "/") if path.startswith(TREE + os.sep) else path


# the whole suite


def survey(arguments: Sequence[str]) -> Say:
    """All tests, once, and the lines each of them runs."""
    import coverage

    cover = coverage.Coverage(data_file=None, source=[TREE], config_file=False, messages=False)
    watch = Watch(coverage=cover)
    cover.start()
    cover.switch_context("")
    code = run_pytest(arguments, watch)
    cover.stop()
    order = {test: at for at, test in enumerate(watch.outcomes)} | {"": -1}
    lines: dict[str, dict[int, list[int]]] = {}
    data = cover.get_data()
    for path in data.measured_files():
        by_line = data.contexts_by_lineno(path)
        lines[relative(path)] = {line: sorted(order[one] for one in tests if one in order)
                                 for line, tests in by_line.items()}  # fmt: skip
    return told(watch, code) | {"lines": lines, "modules": foreign_modules()}


def plain(arguments: Sequence[str]) -> Say:
    """All tests, once."""
    watch = Watch()
    code = run_pytest(arguments, watch)
    return told(watch, code) | {"modules": foreign_modules()}


def told(watch: Watch, code: int) -> Say:
    """What a whole run gave."""
    return {"code": code, "outcomes": watch.outcomes, "seconds": watch.seconds, "broken": watch.broken,
            "failures": watch.failures[:5]}  # fmt: skip


def foreign_modules() -> list[str]:
    """Names of what was imported from outside the tree."""
    return [name for name, module in list(sys.modules.items()) if not in_tree(module) and name != "__main__"]


def in_tree(module: ModuleType) -> bool:
    """Whether a module's file, or one of a namespace package's folders, lies in the tree."""
    places = [getattr(module, "__file__", None), *list(getattr(module, "__path__", None) or [])]
    return any(isinstance(place, str) and place.startswith(TREE + os.sep) for place in places)


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
            done = {"verdict": "crash", "detail": [f"{type(error).__name__}: {error}"[:LONG]]}
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
