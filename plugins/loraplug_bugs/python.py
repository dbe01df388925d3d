"""Python: mutations by libcst, tests by pytest in a warm process that forks for every bug."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import frozen

from loraplug import LoraplugError
from loraplug_bugs.functions import python_functions
from loraplug_bugs.language import Failure, Mutation, Outcome, Survey
from loraplug_bugs.sandbox import Sandbox, end

_WORKER = Path(__file__).with_name("worker.py")
_SPARE = 30.0  # seconds for a worker to start, beyond what its tests may take
KINDS = (
    "copied_branch", "dropped_condition", "inverted_condition", "missing_argument", "missing_await",
    "missing_negation", "missing_return", "missing_update", "mutable_default", "off_by_one", "removed_call",
    "removed_yield", "similar_name", "slice_boundary", "swapped_arguments", "wrong_comparison", "wrong_constant",
    "wrong_default", "wrong_exception", "wrong_index", "wrong_loop_exit", "wrong_operator", "wrong_order",
    "wrong_variable", "wrong_yield",
)  # fmt: skip


@frozen
class Python:
    """The language Python; see `loraplug_bugs.language.Language`."""

    name: str = "python"
    suffixes: Sequence[str] = (".py",)
    kinds: Sequence[str] = KINDS

    def is_test(self, path: str) -> bool:
        """Whether pytest would look into the file, or it helps the tests."""
        parts = PurePosixPath(path).parts
        name = parts[-1]
        return (
            name.startswith("test_")
            or name.endswith("_test.py")
            or name in ("conftest.py", "setup.py", "noxfile.py")
            or any(part in ("test", "tests", "testing") for part in parts[:-1])
        )

    functions = staticmethod(python_functions)

    def mutations(self, text: str) -> Sequence[Mutation]:
        """See `python_mutations`."""
        from loraplug_bugs.mutate import python_mutations

        return python_mutations(text)

    def suite(self, tests: Sequence[str], arguments: Sequence[str], command: str) -> PytestSuite:
        """pytest with these arguments, run by the Python `command`."""
        return PytestSuite(tuple(tests), tuple(arguments), command or sys.executable)


@frozen
class PytestSuite:
    """A suite that pytest runs; `python` needs pytest and coverage installed."""

    tests: tuple[str, ...]
    arguments: tuple[str, ...]
    python: str

    def survey(self, box: Sandbox) -> Survey:
        """See `Suite.survey`. The second run is without coverage; its seconds count."""
        first = self._whole(box, "survey")
        box.restore()
        second = self._whole(box, "plain")
        box.restore()
        passed = [test for test, outcome in first["outcomes"].items() if outcome == "passed"]
        steady = [test for test in passed if second["outcomes"].get(test) == "passed"]
        if not steady:
            raise self._no_tests(first)
        now = {test: at for at, test in enumerate(steady)}
        old = list(first["outcomes"])
        lines = {
            path: {int(line): [at for one in tests if (at := -1 if one < 0 else now.get(old[one])) is not None]
                   for line, tests in by_line.items()}
            for path, by_line in first["lines"].items()
        }  # fmt: skip
        both = first["outcomes"].keys() | second["outcomes"].keys()
        flaky = sorted(test for test in both if first["outcomes"].get(test) != second["outcomes"].get(test))
        failing = sorted(test for test in both - set(flaky) if first["outcomes"][test] == "failed")
        return Survey({test: second["seconds"].get(test, 0.0) for test in steady}, flaky, failing, lines,
                      {"modules": first["modules"], "broken": first["broken"]})  # fmt: skip

    def tester(self, box: Sandbox, survey: Survey) -> PytestTester:
        """See `Suite.tester`. The byte code of the tree is made first, in the box."""
        told = self._whole(box, "plain", "--collect-only", bytecode=True)
        box.settle()
        return PytestTester(box, self, survey.more.get("modules", told["modules"]))

    def _whole(self, box: Sandbox, mode: str, *more: str, bytecode: bool = False) -> Any:
        env = box.environment() | ({"PYTHONDONTWRITEBYTECODE": ""} if bytecode else {})
        process = start(box, [self.python, str(_WORKER), mode, *self.arguments, *more, *self.tests], env)
        try:
            out, errors = process.communicate(timeout=box.limits.seconds)
        except subprocess.TimeoutExpired:
            raise LoraplugError(
                f"the test suite takes more than {box.limits.seconds:g} s",
                where=box.source,
                todo="raise dataset.limits.suite_seconds, or choose tests with dataset.tests",
            ) from None
        finally:
            end(process)
        try:
            return json.loads(out)
        except ValueError:
            told = errors.decode("utf-8", "replace").strip()[-600:]
            early = f"the process ended early; {box.limits.memory_mb} MiB of memory may be too little"
            todo = f"see that {self.python} has pytest and coverage"
            if not told:
                todo += ", or raise dataset.limits.memory_mb (`eval`: --memory-mb)"
            raise LoraplugError(f"the tests cannot be run: {told or early}", where=box.source, todo=todo) from None

    def _no_tests(self, told: Mapping[str, Any]) -> LoraplugError:
        failed = [f"{one['test']}: {one['error']}: {one['message']}" for one in told["failures"]]
        seen = (told["broken"] or failed)[:1]
        return LoraplugError(
            f"no test passes ({len(told['outcomes'])} ran, pytest ended with {told['code']})"
            + "".join(f"; the first trouble: {one}" for one in seen),
            todo="run pytest there by hand; python names the interpreter that has what the tests need",
        )


class PytestTester:
    """One warm process; see `Tester`."""

    def __init__(self, box: Sandbox, suite: PytestSuite, modules: Sequence[str]) -> None:
        self._box, self._suite, self._modules = box, suite, list(modules)
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, tests: Sequence[str], seconds: float, stop_after: int) -> Outcome:
        """See `Tester.run`. A worker that has died is started again."""
        process = self._process or self._start()
        job = {"tests": list(tests), "seconds": seconds, "stop_after": stop_after, "arguments": self._suite.arguments}
        told = self._ask(process, json.dumps(job).encode() + b"\n", seconds)
        if told is None:  # the worker is gone: ended by the jail, or by the code under test
            self.close()
            return Outcome("memory" if self._box.told() else "crash")
        failures = [Failure(**one) for one in told.get("failures", ())]
        return Outcome(told["verdict"], failures, told.get("seconds", 0.0), told.get("counts", {}))

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                if process.stdin is not None:
                    process.stdin.close()
                process.wait(2)
            end(process)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [self._suite.python, str(_WORKER), "serve", json.dumps(self._modules)]
        self._process = start(self._box, command, self._box.environment())
        if self._ask(self._process, b"", 0.0) is None:
            raise LoraplugError("the process that runs the tests does not start", where=self._box.source)
        return self._process

    def _ask(self, process: subprocess.Popen[bytes], line: bytes, seconds: float) -> Any:
        """The answer to a job, or None where the process has ended or does not answer in time."""
        import select

        if process.stdin is None or process.stdout is None:
            return None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            if sys.platform != "win32" and not select.select([process.stdout], [], [], seconds + _SPARE)[0]:
                return None
            return json.loads(process.stdout.readline())
        except (OSError, ValueError):
            return None


def start(box: Sandbox, command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A command in the box with pipes, at the head of a session of its own."""
    return subprocess.Popen(box.command(command), cwd=box.tree, env=dict(env), stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
