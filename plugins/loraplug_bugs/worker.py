"""Runs pytest for `loraplug_bugs.python`, inside the sandbox and under the Python the tests want.

A program, not a module: it imports nothing but the standard library, pytest, (to survey) coverage, and by its path
`telling.py`, which tells how tests ended.

    worker.py survey ROOTS SECONDS ARGUMENTS…   the whole suite, with the tests that run each line
    worker.py plain ROOTS SECONDS ARGUMENTS…    the whole suite
    worker.py serve ROOTS MODULES               jobs on stdin, each answered by one line
    worker.py once                              one job, in the process that `serve` starts for it

A job comes as its length in 8 hexadecimal digits, as JSON, and with a random word of 32 characters behind it, which the
answer has to begin with. `serve` imports pytest and all the modules the suite needs from outside the tree once, and
forks for every job: what a job changes in the process ends with it, and so does whatever it has started. A job is a new
interpreter where one is asked for (`fresh`), where there is no fork (Windows), and where pytest itself stands on the
code under test. No code of the tree runs in this process; the pipes to whoever asks are closed in those where it does,
and the word is read only when the job is over. What tests print is thrown away.
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
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

ALWAYS = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "-p", "no:cov", "-o", "addopts=",
          "-W", "ignore"]  # fmt: skip
WORD = 32  # characters of a job's random word
MOST = 64 << 20  # bytes of what a job's process says
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
    reply(asked, out, {"ready": True})
    while (text := read_exactly(asked, 8)) is not None:
        job = json.loads(read_exactly(asked, int(text, 16)) or b"{}")
        begun = time.perf_counter()
        # pytest itself stands on the tree's code, or the tree changes what every interpreter does first
        new = job.get("fresh") or stands or brings(roots, "sitecustomize") or brings(roots, "usercustomize")
        done = fresh(job) if new or sys.platform == "win32" else apart(partial(run_tests, job), job["seconds"], roots)
        reply(asked, out, done | {"seconds": time.perf_counter() - begun})


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
    """What `action` says in a child of this process, which is given a pipe of its own and nothing else."""
    if sys.platform == "win32":
        raise OSError("there is no fork")  # where it is called a new interpreter is started instead
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        for number in (reading, *PIPES):
            os.close(number)
        private(False)
        sys.path[:0] = roots
        if roots:
            os.environ["PYTHONPATH"] = os.pathsep.join(roots)
        try:
            done = action()
        except BaseException as error:
            done = {"verdict": "crash", "detail": [f"{type(error).__name__}: {error}"[: telling.LONG]]}
        write_all(writing, json.dumps(done).encode() + b"\n")
        os._exit(0)
    os.close(writing)
    text, why = read_until(reading, time.monotonic() + seconds)
    for kill in (os.killpg, os.kill):  # the group may not be there yet
        with contextlib.suppress(OSError):
            kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    end_strays()
    return {"verdict": why} if why else parsed(text)


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
        text, why = read_until(process.stdout.fileno(), deadline, close=False)  # type: ignore[union-attr]
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
        end_strays()
    return {"verdict": why} if why else parsed(text) | {"exit": process.returncode}


def parsed(text: bytes) -> Say:
    """What a job's process said: one object, or nothing that counts."""
    if not text:
        return {"verdict": "crash"}
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {"verdict": "void"}
    return said if isinstance(said, dict) and text.count(b"\n") == 1 else {"verdict": "void"}


def read_until(pipe: int, deadline: float, close: bool = True) -> tuple[bytes, str]:
    """One line out of a pipe, and what was over before its end: `time` or `output`, or nothing."""
    parts, size = [], 0
    try:
        while (left := deadline - time.monotonic()) > 0:
            if sys.platform == "win32" or select.select([pipe], [], [], left)[0]:
                part = os.read(pipe, 1 << 16)
                parts.append(part)
                size += len(part)
                if size > MOST:
                    return b"", "output"
                if not part or part.endswith(b"\n"):  # a child of the tests may keep the pipe open
                    return b"".join(parts), ""
        return b"", "time"
    finally:
        if close:
            os.close(pipe)


def end_strays() -> None:
    """End what a job left behind, where this process and its first one are all that may be in the process table."""
    if sys.platform == "win32" or not own_table():
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)  # all but the first process and this one, in one go
    deadline = time.monotonic() + 5.0
    while any(name.isdecimal() and name not in ("1", str(os.getpid())) for name in os.listdir("/proc")):  # noqa: PTH208
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        if time.monotonic() > deadline:
            os._exit(1)  # and the jail ends with this process
        time.sleep(0.0005)


@lru_cache(1)
def own_table() -> bool:
    """Whether the first process this one sees is the jail's."""
    try:
        return os.getppid() == 1 and b"/jail\0" in Path("/proc/1/cmdline").read_bytes()
    except OSError:
        return False


# the pipes to whoever asks

PIPES: list[int] = []


def read_exactly(number: int, size: int) -> bytes | None:
    """So many bytes and not one more, or None at the end."""
    data = b""
    while len(data) < size:
        part = os.read(number, size - len(data))
        if not part:
            return None
        data += part
    return data


def reply(asked: int, out: int, told: Say) -> None:
    """One line to whoever asked, with the word that came behind the job: it is read when the job is over."""
    word = read_exactly(asked, WORD)
    if word is None:
        sys.exit(0)
    write_all(out, word + b" " + json.dumps(told).encode() + b"\n")


def write_all(number: int, data: bytes) -> None:
    """All of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


def private(on: bool) -> None:
    """Let no process of the same user read this one's memory or open its descriptors; Linux."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(4, ctypes.c_ulong(not on), 0, 0, 0)  # PR_SET_DUMPABLE


def keep_pipes() -> tuple[int, int]:
    """The real stdin and stdout under numbers of their own; tests read nothing, and what they write goes nowhere."""
    asked, out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    PIPES[:] = [asked, out]
    return asked, out


def main() -> None:
    """See the module."""
    # `python FILE` puts the file's folder first, where code under test that has an `options` would find ours
    sys.path[:] = [place for place in sys.path if place != str(Path(__file__).parent)]
    mode, *arguments = sys.argv[1:]
    if mode == "once":  # the job's own process: its stdout is the pipe made for it
        job = json.loads(sys.stdin.buffer.read())
        _, out = keep_pipes()
        done = run_tests(job)
        write_all(out, json.dumps(done).encode() + b"\n")
        sys.exit(done.get("code", 0))
    private(True)
    asked, out = keep_pipes()
    roots = json.loads(arguments.pop(0))
    if mode == "serve":
        serve(json.loads(arguments[0]), roots, asked, out)
        return
    seconds = float(arguments.pop(0))
    whole = partial(survey if mode == "survey" else plain, arguments)
    if sys.platform == "win32":
        sys.path[:0] = roots
        reply(asked, out, whole())
    else:
        reply(asked, out, apart(whole, seconds, roots))


if __name__ == "__main__":
    main()
