"""Python: mutations by libcst, tests by pytest in a warm process that forks for every bug."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from attrs import frozen

from loraplug import LoraplugError
from loraplug_swe.mutation.functions import python_functions
from loraplug_swe.mutation.language import BaselineRun, Failure, Mutation, Outcome, Report, Verdict
from loraplug_swe.mutation.large import LARGE_KINDS, large_mutations
from loraplug_swe.mutation.survey import checked_report
from loraplug_swe.sandbox.controls import python_controls
from loraplug_swe.sandbox.limits import LIMITS
from loraplug_swe.sandbox.sandbox import Sandbox
from loraplug_swe.sandbox.worker_process import SPARE, Worker

_WORKER = Path(__file__).parent.parent / "sandbox" / "worker.py"
KINDS = (
    "copied_branch", "dropped_condition", "inverted_condition", "missing_argument", "missing_await",
    "missing_negation", "missing_return", "missing_update", "mutable_default", "off_by_one", "removed_call",
    "removed_yield", "similar_name", "slice_boundary", "swapped_arguments", "wrong_comparison", "wrong_constant",
    "wrong_default", "wrong_exception", "wrong_index", "wrong_loop_exit", "wrong_operator", "wrong_order",
    "wrong_variable", "wrong_yield",
)  # fmt: skip


@frozen
class Python:
    """The language Python; see `loraplug_swe.mutation.language.Language`."""

    name: str = "python"
    suffixes: Sequence[str] = (".py",)
    kinds: Sequence[str] = KINDS
    large_kinds: Sequence[str] = LARGE_KINDS

    def is_test(self, path: str) -> bool:
        """Whether pytest would collect the file, or it supports the tests."""
        parts = PurePosixPath(path).parts
        name = parts[-1]
        return (
            name.startswith("test_")
            or name.endswith("_test.py")
            or name in ("conftest.py", "setup.py", "noxfile.py")
            or any(part in ("test", "tests", "testing") for part in parts[:-1])
        )

    functions = staticmethod(python_functions)
    controls = staticmethod(python_controls)

    def mutations(self, text: str) -> Sequence[Mutation]:
        """See `python_mutations`."""
        from loraplug_swe.mutation.proposals import python_mutations

        return python_mutations(text)

    def large_mutations(self, text: str, small: Sequence[Mutation]) -> Sequence[Mutation]:
        """See `large_mutations`."""
        return large_mutations(text, small)

    def suite(self, tests: Sequence[str], arguments: Sequence[str], command: str) -> PytestSuite:
        """pytest with these arguments, run by the Python `command`."""
        return PytestSuite(tuple(tests), tuple(arguments), command or sys.executable)


@frozen
class PytestSuite:
    """A suite that pytest runs; `python` needs pytest and coverage installed."""

    tests: tuple[str, ...]
    arguments: tuple[str, ...]
    python: str

    def survey(self, box: Sandbox) -> BaselineRun:
        """See `Suite.survey`. The second run is without coverage; its durations are used."""
        first = checked_report(self._whole(box, "survey"), box.source)
        box.restore()
        second = checked_report(self._whole(box, "plain"), box.source)
        box.restore()
        passed = [test for test, outcome in first["outcomes"].items() if outcome == "passed"]
        steady = [test for test in passed if second["outcomes"].get(test) == "passed"]
        if not steady:
            raise self._no_tests(first, box.source)
        now = {test: at for at, test in enumerate(steady)}
        old = list(first["outcomes"])
        if any(one >= len(old) for by_line in first["lines"].values() for tests in by_line.values() for one in tests):
            raise LoraplugError("the test report names tests that do not exist", where=box.source)
        lines = {
            path: {int(line): [at for one in tests if (at := -1 if one < 0 else now.get(old[one])) is not None]
                   for line, tests in by_line.items()}
            for path, by_line in first["lines"].items()
        }  # fmt: skip
        both = first["outcomes"].keys() | second["outcomes"].keys()
        flaky = sorted(test for test in both if first["outcomes"].get(test) != second["outcomes"].get(test))
        failing = sorted(test for test in both - set(flaky) if first["outcomes"].get(test) == "failed")
        return BaselineRun({test: second["seconds"].get(test, 0.0) for test in steady}, flaky, failing, lines,
                      {"modules": first["modules"], "broken": first["broken"]})  # fmt: skip

    def tester(self, box: Sandbox, survey: BaselineRun) -> PytestTester:
        """See `Suite.tester`. The tree's byte code is compiled first, in the sandbox."""
        told = checked_report(self._whole(box, "plain", "--collect-only", bytecode=True), box.source)
        box.settle()
        return PytestTester(box, self, survey.more.get("modules", told["modules"]))

    def _whole(self, box: Sandbox, mode: str, *more: str, bytecode: bool = False) -> Any:
        env = box.environment() | ({"PYTHONDONTWRITEBYTECODE": ""} if bytecode else {})
        words = [mode, _roots(env), str(box.limits.seconds), *self.arguments, *more, *self.tests]
        with Worker(box, [self.python, str(_WORKER), *words], env) as worker:
            told = worker.ask(b"", box.limits.seconds)
        box.check()
        verdict = told.get("verdict") if isinstance(told, dict) else None
        if verdict is None and isinstance(told, dict):
            return told
        killed = box.told() or (verdict if verdict in LIMITS else "time" if told == "late" else None)
        if killed == "time":
            raise LoraplugError(
                f"the test suite takes more than {box.limits.seconds:g} s",
                where=box.source,
                todo="raise dataset.limits.suite_seconds, or choose tests with dataset.tests",
            )
        if killed is not None:
            raise LoraplugError(f"the tests cannot be run: they exceed dataset.{LIMITS[killed]}",
                                where=box.source, todo=f"raise dataset.{LIMITS[killed]}, or choose tests")  # fmt: skip
        early = worker.words or f"the process ended early; {box.limits.memory_mb} MiB of memory may be too little"
        todo = f"check that {self.python} has pytest and coverage"
        if not worker.words:
            todo += ", or raise dataset.limits.memory_mb (`eval`: --memory-mb)"
        if early.startswith("Traceback (most recent call last)"):  # its last line says it: no pytest there, say
            early = early.splitlines()[-1]
        raise LoraplugError(f"the tests cannot be run: {early}", where=box.source, todo=todo)

    def _no_tests(self, told: Mapping[str, Any], source: object) -> LoraplugError:
        failed = [f"{one['test']}: {one['error']}: {one['message']}" for one in told["failures"]]
        seen = (told["broken"] or failed)[:1]
        if not seen and not told["outcomes"]:
            return LoraplugError("pytest finds no tests in it", where=source,
                                 todo="dataset.tests or dataset.tests_path says where the tests are")  # fmt: skip
        return LoraplugError(
            f"no test passes ({len(told['outcomes'])} ran, pytest exited with {told['code']})"
            + "".join(f"; the first problem: {one}" for one in seen),
            where=source,
            todo="run pytest there by hand; set dataset.python to an interpreter with the dependencies of the tests",
        )


class PytestTester:
    """One warm pytest process; see `Tester`."""

    def __init__(self, box: Sandbox, suite: PytestSuite, modules: Sequence[str]) -> None:
        self._box, self._suite, self._modules = box, suite, list(modules)
        self._worker: Worker | None = None

    def run(self, tests: Sequence[str], seconds: float, stop_after: int) -> Outcome:
        """See `Tester.run`. A dead worker is restarted."""
        told = self._told(self._job(tests, seconds, stop_after))
        return told if isinstance(told, Outcome) else _outcome(told)

    def _job(self, tests: Sequence[str], seconds: float, stop_after: int) -> dict[str, Any]:
        return {"tests": list(tests), "seconds": seconds, "stop_after": stop_after, "arguments": self._suite.arguments}

    def report(self, tests: Sequence[str], seconds: float, stop_after: int) -> Outcome | Report:
        """The outcome of each of these tests in a separate process, and its exit code.

        No code of the tree ran before in that process or in the one it was forked from.

        Returns an `Outcome` if there is no report: a limit was exceeded, or the reply was invalid.
        """
        told = self._told(self._job(tests, seconds, stop_after) | {"report": True})
        if isinstance(told, Outcome):
            return told
        if told.get("verdict") != "passed":
            return _outcome(told)
        try:
            outcomes = {str(test): str(how) for test, how in told["outcomes"].items()}
            return Report(outcomes, int(told["code"]), int(told["exit"]), _failures(told), float(told["seconds"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            return Outcome("void")

    def _told(self, job: Mapping[str, Any]) -> dict[str, Any] | Outcome:
        """The answer to a job.

        Where something else comes, the job is done once more by a new worker: what came may have been left by a job
        before.
        """
        path = self._box.environment()["PYTHONPATH"]
        line = json.dumps({**job, "path": path}).encode()
        for _ in range(2):
            worker = self._worker if self._worker is not None and self._worker.idle else self._start()
            told = worker.ask(b"%08x" % len(line) + line, job["seconds"] + SPARE)
            if isinstance(told, dict):
                return told
            self.close()  # nothing runs inside any more
            if told != "forged":  # ended by the jail, or by the code under test
                killed = self._box.told()
                return Outcome(killed or ("time" if told == "late" else "output" if told == "full" else "crash"))
        return Outcome("void")

    def close(self) -> None:
        """End the worker process."""
        if self._worker is not None:
            worker, self._worker = self._worker, None
            worker.close()

    def _start(self) -> Worker:
        self.close()
        env = self._box.environment()
        command = [self._suite.python, str(_WORKER), "serve", _roots(env), json.dumps(self._modules)]
        self._worker = Worker(self._box, command, env)
        if not isinstance(self._worker.ask(b"", SPARE), dict):
            words = self._worker.words
            self.close()
            self._box.check()
            raise LoraplugError(f"the process that runs the tests does not start{words and ': '}{words}",
                                where=self._box.source)  # fmt: skip
        return self._worker


def _roots(env: Mapping[str, str]) -> str:
    return json.dumps([part for part in env["PYTHONPATH"].split(os.pathsep) if part])


def _outcome(told: Mapping[str, Any]) -> Outcome:
    """What a worker said of a job, whatever a job made it say."""
    verdict: Any = told.get("verdict")
    try:
        if verdict not in get_args(Verdict):
            raise ValueError("no verdict")
        counts = {str(how): int(count) for how, count in told.get("counts", {}).items()}
        return Outcome(verdict, _failures(told), float(told.get("seconds", 0.0)), counts)
    except (TypeError, ValueError, KeyError, AttributeError):
        return Outcome("void")


def _failures(told: Mapping[str, Any]) -> list[Failure]:
    return [
        Failure(
            **{name: str(one[name]) for name in ("test", "error", "message")},
            trace=[(str(file), int(line), str(name), str(source)) for file, line, name, source in one["trace"]],
            **{name: str(one.get(name, "")) for name in ("check", "expected", "actual", "left", "right")},
        )
        for one in told.get("failures", ())
    ]
