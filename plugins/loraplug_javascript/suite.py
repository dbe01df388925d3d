"""The test suite of a tree: the baseline run, and a run per bug; every run uses new processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from attrs import frozen

from loraplug import InputError, LoraplugError
from loraplug_javascript.coverage import lines_by_file, lines_by_test
from loraplug_javascript.environment import MODULES, node_program
from loraplug_javascript.reports import Reader, Told, files_of
from loraplug_javascript.runners import MANY, ModuleRunner, NodeRunner, Runner, choose_runner
from loraplug_javascript.syntax import Grammar, statement_at
from loraplug_swe.mutation import BaselineRun, Failure, Outcome, Report, Verdict
from loraplug_swe.sandbox import CommandReport, ReportedCommands, Sandbox

_START = {"node": 5.0, "jest": 15.0, "vitest": 15.0}  # seconds for a runner to start, beyond what its tests may take
_NO_TEST = "loraplug: a name that no test has"


@frozen
class JavaScriptSuite:
    """A suite that node's own runner, jest or vitest runs; `node` is the program, "" for that of PATH."""

    tests: tuple[str, ...]
    arguments: tuple[str, ...]
    node: str
    grammars: tuple[Grammar, ...]

    def survey(self, box: Sandbox) -> BaselineRun:
        """See `Suite.survey`. The second run is without coverage; its durations are used."""
        with Running(box, self) as running:
            if isinstance(running.runner, NodeRunner):
                first, files = running.whole(watched=True)
                lines = lines_by_test(files, box.tree)
                second, _ = running.whole()
            else:
                first, _ = running.whole()
                second, _ = running.whole()
                lines = running.covered_files(sorted({one.partition("::")[0] for one in first.outcomes}))
        both = first.outcomes.keys() | second.outcomes.keys()
        flaky = sorted(one for one in both if first.outcomes.get(one) != second.outcomes.get(one))
        failing = sorted(one for one in both - set(flaky) if first.outcomes[one] == "failed")
        steady = [one for one, how in first.outcomes.items() if how == "passed" and one not in flaky]
        if not steady:
            raise _no_tests(first, box)
        at = {test: number for number, test in enumerate(steady)}
        numbered = {
            path: {line: sorted({-1 if test == "" else at[test] for test in tests if test == "" or test in at})
                   for line, tests in by_line.items()}
            for path, by_line in lines.items()
        }  # fmt: skip
        return BaselineRun({test: second.seconds.get(test, 0.0) for test in steady}, flaky, failing, numbered)

    def tester(self, box: Sandbox, survey: BaselineRun) -> JavaScriptTester:  # noqa: ARG002
        """See `Suite.tester`."""
        return JavaScriptTester(Running(box, self))


class Running:
    """A runner in a box. Close it, or use it as a context manager.

    Raises:
        InputError: the runner is ambiguous, or not installed.
    """

    def __init__(self, box: Sandbox, suite: JavaScriptSuite) -> None:
        self.box = box
        node, _ = node_program(suite.node)
        modules = dict(box.limits.links).get(MODULES)
        self._modules = modules
        self.runner: Runner = choose_runner(
            node, box.tree, box.read("package.json"), modules, suite.tests, suite.arguments
        )
        self._start = _START[self.runner.name if isinstance(self.runner, ModuleRunner) else "node"]
        self._commands = ReportedCommands(box)
        self.folder = self._commands.folder
        self._reader = Reader(box.tree, box.environment()["TMPDIR"], box.read,
                              lambda text, line: statement_at(text, line, suite.grammars))  # fmt: skip

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the running processes."""
        self._commands.close()

    def run(
        self, files: Sequence[str], names: Sequence[str] | None, seconds: float, watched: bool = False
    ) -> tuple[CommandReport, Told | None]:
        """Run tests and return their report; None if it cannot be read."""
        runner, env = self.runner, self.runner.variables(self.folder)
        if not isinstance(runner, NodeRunner):
            done = self._commands.run(runner.commands(files, names, self.folder), seconds + self._start, env)
            return done, self._told(done)
        every = runner.all_files(files or None)
        commands = runner.commands(every, names, self.folder, watched)
        env = {**env, **(runner.watching(self.folder) if watched else {})}
        done = self._commands.run(commands, seconds + self._start * len(commands), env)
        try:
            return done, self._reader.node(every, done) if done.ended is None else None
        except ValueError:
            return done, None

    def _told(self, done: CommandReport) -> Told | None:
        try:
            return self._reader.modules(done) if done.ended is None else None
        except ValueError:
            return None

    def whole(self, watched: bool = False) -> tuple[Told, Mapping[str, str]]:
        """Run the whole suite on the unchanged tree, and return the files of its report; then restore the copy.

        Raises:
            LoraplugError: the suite cannot be run.
        """
        if isinstance(self.runner, NodeRunner) and not self.runner.all_files():
            raise InputError("there is no test file", where=self.box.source,
                             todo="name files or folders with dataset.tests")  # fmt: skip
        done, told = self.run((), None, self.box.limits.seconds, watched)
        self.box.restore()
        if told is None:
            raise self._cannot(done)
        return told, done.files

    def covered_files(self, files: Sequence[str]) -> dict[str, dict[int, list[str]]]:
        """Which test files run which line: each is run twice, once without any of its tests.

        Raises:
            LoraplugError: coverage is not available.
        """
        runner = self.runner
        assert isinstance(runner, ModuleRunner)  # noqa: S101 - node's own runner tells by test
        self._check_coverage(runner)
        found: dict[str, dict[int, list[str]]] = {}
        for file in files:
            counts, tests = [], []
            for names in ([_NO_TEST], None):
                argv = runner.covered(file, names, self.folder)
                seconds = self.box.limits.seconds
                done = self._commands.run([argv], seconds, runner.variables(self.folder))
                self.box.restore()
                told = self._told(done)
                if told is None or "coverage-final.json" not in done.files:
                    raise self._cannot(done)
                counts.append(done.files["coverage-final.json"])
                tests = list(told.outcomes)
            for path, by_line in lines_by_file(counts[0], counts[1], self.box.tree).items():
                into = found.setdefault(path, {})
                for line, outside in by_line.items():
                    into.setdefault(line, []).extend([""] if outside else tests)
        return found

    def _check_coverage(self, runner: ModuleRunner) -> None:
        known = [f"{self._modules}/@vitest/coverage-{name}" for name in ("v8", "istanbul")]
        if runner.name == "vitest" and not any(Path(one).is_dir() for one in known):
            raise InputError("vitest's coverage package is not installed, so the lines each test runs are unknown",
                             where="dataset.path", todo="npm install --save-dev @vitest/coverage-v8")  # fmt: skip

    def _cannot(self, done: CommandReport) -> LoraplugError:
        if done.ended == "time":
            what = f"the test suite takes more than {self.box.limits.seconds:g} s"
            todo = "raise dataset.limits.suite_seconds, or choose tests with dataset.tests"
            return LoraplugError(what, where=self.box.source, todo=todo)
        if done.ended in ("memory", "processes", "disk", "output"):
            what = f"the tests cannot be run: they exceed a limit ({done.ended})"
            todo = "raise dataset.limits, or choose tests with dataset.tests"
            return LoraplugError(what, where=self.box.source, todo=todo)
        said = "".join(done.said).strip()[-600:] or f"the test runner exited with {done.exits}"
        return LoraplugError(f"the tests cannot be run: {said}", where=self.box.source,
                             todo="run them there by hand; dependencies come from its node_modules")  # fmt: skip


class JavaScriptTester:
    """See `Tester`; it has reports, see `loraplug_swe.mutation.language.Language`."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def run(self, tests: Sequence[str], seconds: float, stop_after: int) -> Outcome:  # noqa: ARG002 - runners differ
        """See `Tester.run`."""
        done, told = self._asked(tests, seconds)
        if told is None:
            return _ended(done)
        wanted = meant(tests, told.outcomes)
        files = {one.partition("::")[0] for one in wanted}
        if broken := [path for path in told.broken if path in files]:
            return Outcome("broken", [told.failures[broken[0]]], done.seconds)
        counts = Counter(told.outcomes[one] for one in wanted if one in told.outcomes)
        failures = [_failure(told, one) for one in wanted if told.outcomes.get(one) == "failed"]
        if failures:
            return Outcome("failed", failures, done.seconds, counts)
        idle = [one for one in tests if one in wanted and told.outcomes.get(one) != "passed"]
        if idle or not told.outcomes:
            words = f"{idle[0]} did not run, or was skipped" if idle else "no test ran"
            return Outcome("broken", [Failure(idle[0] if idle else "", "", words)], done.seconds)
        return Outcome("passed", (), done.seconds, counts)

    def report(self, tests: Sequence[str], seconds: float, stop_after: int) -> Outcome | Report:  # noqa: ARG002
        """How each of these tests, or of all in these files and folders, ended, and what the runner exited with.

        Other tests of the same names may have run along: that exit code and report agree is seen on all of them.
        """
        done, told = self._asked(tests, seconds)
        if told is None:
            return _ended(done)
        outcomes = {one: told.outcomes[one] for one in meant(tests, told.outcomes) if one in told.outcomes}
        failures = [_failure(told, one) for one in outcomes if outcomes[one] == "failed"]
        code = int(bool(failures))
        return Report(outcomes, code, 1 - code if told.odd else code, failures, done.seconds)

    def _asked(self, tests: Sequence[str], seconds: float) -> tuple[CommandReport, Told | None]:
        by_file = files_of(tests)
        names = list(dict.fromkeys(name for its in by_file.values() for name in its))
        few = names if 0 < len(names) < MANY else None
        return self._running.run(list(by_file), few, seconds)

    def close(self) -> None:
        """See `Tester.close`."""
        self._running.close()


def meant(tests: Sequence[str], known: Iterable[str]) -> list[str]:
    """Test ids: of files and folders those known that are in them; all that are known where there are none."""
    found: list[str] = []
    for test in tests or ("",):
        inside = [one for one in known if not test or one.startswith((f"{test}::", f"{test.rstrip('/')}/"))]
        found += inside if "::" not in test and inside else [test] if test else []
    return list(dict.fromkeys(found))


def _failure(told: Told, test: str) -> Failure:
    return told.failures.get(test) or Failure(test, "Error", "a part of it fails")


def _ended(done: CommandReport) -> Outcome:
    """The outcome of a run without a report that can be read."""
    if done.ended is None:
        return Outcome("broken", [Failure("", "", "".join(done.said).strip()[-400:])], done.seconds)
    verdict: Any = done.ended if done.ended in get_args(Verdict) else "crash"
    return Outcome(verdict, (), done.seconds)


def _no_tests(told: Told, box: Sandbox) -> LoraplugError:
    seen = [f"{one.test}: {one.error}: {one.message}" for one in told.failures.values()][:1]
    return LoraplugError(
        f"no test passes ({len(told.outcomes)} ran)" + "".join(f"; the first problem: {one[:400]}" for one in seen),
        where=box.source, todo="run the tests there by hand; dependencies come from its node_modules",
    )  # fmt: skip
