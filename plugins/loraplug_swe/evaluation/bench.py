"""One commit of a repository in a sandbox, where patches are applied and tests run."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Mapping, Sequence, Set
from pathlib import Path, PurePosixPath
from typing import Protocol

from attrs import field, frozen

from loraplug import LoraplugError
from loraplug_swe.mutation.language import BaselineRun, Failure, Language, Outcome
from loraplug_swe.sandbox.controls import Controls, judged
from loraplug_swe.sandbox.copies import stamps
from loraplug_swe.sandbox.limits import Limits
from loraplug_swe.sandbox.sandbox import Sandbox

Files = Mapping[str, str | None]
"""New texts of files by path; None for a file that is not there any more."""

_LARGEST = 1_000_000  # bytes of a file that an answer may change
_PATIENCE = 6.0  # times the usual seconds of some tests, on top of the spare time
_FRESH = 20.0  # seconds for a new interpreter to import what the tests need
SHOWN = 5  # failing tests that are told


@frozen
class Checking:
    """How tests are run.

    Attributes:
        command: the arguments of a test command; `{tests}` stands for test ids. None: pytest in a warm process.
        arguments: additional options for pytest.
        python: the interpreter for pytest; "" is this one.
        roots: folders of the tree that the tests import from.
        spare: seconds added to the time limit of tests, six times their duration on the tree without the bug.
        tests: files or folders in which pytest collects tests; empty: all.
    """

    command: tuple[str, ...] | None = None
    arguments: tuple[str, ...] = ()
    python: str = ""
    spare: float = 10.0
    roots: tuple[str, ...] = ("src", ".")
    limits: Limits = field(factory=lambda: Limits(seconds=900.0))
    tests: tuple[str, ...] = ()


class Runner(Protocol):
    """Runs tests by id, or all tests; see `loraplug_swe.mutation.language.Tester`."""

    def run(self, tests: Sequence[str], seconds: float, stop_after: int) -> Outcome:
        """See `Tester.run`."""

    def close(self) -> None:
        """See `Tester.close`."""


@frozen
class CommandRunner:
    """A test command; exit code 0 means that the tests pass."""

    box: Sandbox
    words: tuple[str, ...]

    def run(self, tests: Sequence[str], seconds: float, stop_after: int) -> Outcome:  # noqa: ARG002 - see Tester
        """The command with test ids in place of `{tests}`."""
        words = [each for word in self.words for each in (tests if word == "{tests}" else (word,))]
        done = self.box.run(words, seconds)
        if done.killed is not None:
            return Outcome(done.killed, seconds=done.seconds)
        if done.returncode in (126, 127):
            raise LoraplugError(f"the test command does not run: {done.output.strip()[-300:]}", where=words[0],
                                todo="give a command that works in a copy of the repository")  # fmt: skip
        if done.returncode == 0:
            return Outcome("passed", seconds=done.seconds)
        return Outcome("failed", [Failure("", f"exit code {done.returncode}", done.output[-2000:])], done.seconds)

    def confirmed(self, controls: Sequence[str], seconds: float) -> Outcome:
        """The tests passed in a separate process; if the command takes ids, control tests must fail in another."""
        if not controls or "{tests}" not in self.words:
            return Outcome("passed")
        done = self.run(controls, seconds, 1)
        return Outcome("void") if done.verdict == "passed" else Outcome("passed")

    def close(self) -> None:
        """Holds no resources."""


class Bench:
    """A tree, a private copy to work in, and its tests.

    Args:
        tree: the staged tree; only read.
        home: where the copy is made.
        tongue: decides which files are code and which are tests.
        suffixes: only files that end so may be changed by answers; all texts where empty.

    Attributes:
        texts: files that answers may change; tests: the texts of test files; both by path.
    """

    def __init__(
        self, tree: Path, home: Path, checking: Checking, tongue: Language, suffixes: Sequence[str] = ()
    ) -> None:
        self.box = Sandbox(tree, checking.limits, home=home, roots=checking.roots)
        self._spare, self._tongue = checking.spare, tongue
        self._draw = random.SystemRandom()
        self._suites: dict[object, tuple[tuple[str, ...], float] | None] = {}
        try:
            if checking.command is not None:
                self.runner: Runner = CommandRunner(self.box, checking.command)
            else:
                suite = tongue.suite(checking.tests, checking.arguments, checking.python)
                self.runner = suite.tester(self.box, BaselineRun({}))
            self.texts, self.tests = read_texts(self.box.tree, tongue, suffixes)
        except BaseException:
            self.box.close()
            raise

    @property
    def by_command(self) -> bool:
        """Whether tests are run by a command, whose exit code is the only result."""
        return isinstance(self.runner, CommandRunner)

    def close(self) -> None:
        """End the processes and remove the copy."""
        self.runner.close()
        self.box.close()

    def patched(self, patches: Sequence[str]) -> Files | str:
        """Apply patches to the tree with `git apply`, in order; returns git's message if one fails."""
        before = stamps(self.box.tree)
        try:
            for patch in patches:
                if patch.strip() and (refusal := _git_apply(self.box, patch)):
                    return refusal
            after = stamps(self.box.tree)
            changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
            return {
                name: (self.box.tree / name).read_bytes().decode("utf-8") if name in after else None for name in changed
            }
        except UnicodeDecodeError:
            return "the patch touches a file that is not UTF-8"
        finally:
            self.box.restore()

    def run(self, files: Files, tests: Sequence[str], seconds: float, stop_after: int = 1) -> Outcome:
        """Run tests with these files changed, then restore the files."""
        try:
            self.box.write(files)
            return self.runner.run(tests, seconds, stop_after)
        finally:
            self.box.restore()

    def without_bug(
        self, files: Files, tests: Sequence[str], seconds: float
    ) -> tuple[Outcome, tuple[str, ...], frozenset[str]]:
        """How tests end without the bug; those whose controls fail there, as they must; test files that it changes."""
        outcome, changed = self._confirm(files, tests, self._controls(files, tests), seconds)
        if outcome.verdict == "passed" and not self.by_command:  # a command has only run the controls
            return outcome, tuple(tests), frozenset(changed)
        controlled = tuple(tests) if outcome.verdict == "passed" else ()
        outcome = self.run(files, tests, seconds)
        if outcome.verdict != "passed" or self.by_command:
            return outcome, controlled, frozenset(changed)
        failing = []
        for test in tests:  # some copy cannot be told from its test, as where equality is anything's
            alone, more = self._confirm(files, [test], self._controls(files, [test]), seconds)
            changed |= more
            failing += [test] * (alone.verdict == "passed")
        return outcome, tuple(failing), frozenset(changed)

    def confirm(
        self, files: Files, tests: Sequence[str], controlled: Sequence[str], seconds: float, may_change: Set[str]
    ) -> Outcome:
        """Whether tests pass with these files in a fresh process, where control tests beside them fail.

        Args:
            controlled: tests that have controls.
            may_change: test files that change while tests run without the bug as well.

        Returns:
            `passed`, or `void` where a control does not fail, exit code and report disagree, or the tests' own files
            were changed; else how it ended.
        """
        outcome, changed = self._confirm(files, tests, self._controls(files, controlled), seconds)
        if outcome.verdict == "passed" and changed - may_change:
            return Outcome("void", [Failure("", "", f"changes {min(changed - may_change)} while the tests run")])
        return outcome

    def _confirm(
        self, files: Files, tests: Sequence[str], controls: Controls, seconds: float
    ) -> tuple[Outcome, set[str]]:
        changed: set[str] = set()
        try:
            self.box.write({**files, **controls.files})
            if isinstance(self.runner, CommandRunner):
                return self.runner.confirmed(list(controls.ids), seconds), changed
            report = getattr(self.runner, "report", None)
            if report is None:  # a language whose tester has no reports
                return self.runner.run(tests, seconds, SHOWN), changed
            together = list(tests)
            for control in controls.ids:
                together.insert(self._draw.randrange(len(together) + 1), control)
            told = report(together, seconds + _FRESH, SHOWN + len(controls.ids))
            return told if isinstance(told, Outcome) else judged(told, tests, controls.ids), changed
        finally:
            ours = files.keys() | controls.files.keys()
            changed |= {name for name in self.box.restored() if name not in ours and self._is_test(name)}

    def _is_test(self, name: str) -> bool:
        """Whether a file is one of the tests, or byte code of one."""
        path = PurePosixPath(name)
        if path.parent.name == "__pycache__":
            path = path.parent.parent / f"{path.name.partition('.')[0]}.py"
        return self._tongue.is_test(str(path))

    def _controls(self, files: Files, tests: Sequence[str]) -> Controls:
        make = getattr(self._tongue, "controls", None)
        if make is None:
            return Controls({}, {})
        texts = self.tests | {path: text for path, text in files.items() if text is not None}
        made: Controls = make(texts, tests, self._draw)
        return made

    def seconds(self, usual: float) -> float:
        """The time limit of tests with this usual duration."""
        return self._spare + _PATIENCE * usual

    def suite(self, clean: Files, tests: Sequence[str]) -> tuple[tuple[str, ...], float] | None:
        """Those of `tests` that pass without the bug, and their duration; None if they cannot be run.

        No ids means all tests. Each set is run once for each state of the files.
        """
        key = (tuple(tests), tuple(sorted(clean.items())))
        if key not in self._suites:
            first = self.run(clean, tests, self.box.limits.seconds, stop_after=1_000_000)
            failing = {failure.test for failure in first.failures}
            steady = tuple(test for test in tests if test not in failing)
            if first.verdict == "passed":
                self._suites[key] = tuple(tests), first.seconds
            elif first.verdict == "failed" and steady and failing <= set(tests):
                again = self.run(clean, steady, self.box.limits.seconds)
                self._suites[key] = (steady, again.seconds) if again.verdict == "passed" else None
            else:
                self._suites[key] = None
        return self._suites[key]


def read_texts(tree: Path, tongue: Language, suffixes: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The files that an answer may change, and those of the tests."""
    found: dict[str, str] = {}
    tests: dict[str, str] = {}
    for name in sorted(stamps(tree)):
        path = tree / name
        if path.is_symlink() or path.stat().st_size > _LARGEST:
            continue
        is_test = tongue.is_test(name)
        if suffixes and not name.endswith(tuple(suffixes)):
            continue
        with contextlib.suppress(UnicodeDecodeError):  # no answer can be about it
            (tests if is_test else found)[name] = path.read_bytes().decode("utf-8")
    return found, tests


def _git_apply(box: Sandbox, patch: str) -> str:
    """Apply a patch to the copy; git's words where it does not. git keeps to the folder it runs in."""
    env = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C",
            "GIT_CEILING_DIRECTORIES": str(box.root), "GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1",
            "GIT_ATTR_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}  # fmt: skip
    text = patch if patch.endswith("\n") else f"{patch}\n"
    try:
        done = subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], cwd=box.tree, env=env, input=text.encode(),
                              capture_output=True, timeout=60, check=False)  # fmt: skip
    except FileNotFoundError:
        raise LoraplugError("git is not installed", todo="install git") from None
    return done.stderr.decode("utf-8", "replace").strip()[:300] if done.returncode else ""
