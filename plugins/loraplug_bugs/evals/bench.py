"""One commit of a repository in a sandbox, where patches are applied and tests run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from attrs import field, frozen

from loraplug import LoraplugError
from loraplug_bugs.language import Language, Outcome, Survey
from loraplug_bugs.sandbox import Limits, Sandbox, stamps

Files = Mapping[str, str | None]
"""New texts of files by path; None for a file that is not there any more."""

_LARGEST = 1_000_000  # bytes of a file that an answer may change
_PATIENCE = 6.0  # times the usual seconds of some tests, on top of the spare time


@frozen
class Checking:
    """How tests are run.

    Attributes:
        command: words of a test command; `{tests}` stands for test ids. None: pytest in a warm process.
        arguments: further options for pytest.
        python: the interpreter for pytest; "" is this one.
        roots: folders of the tree that the tests import from.
        spare: seconds that tests may take on top of six times what they take on the tree without the bug.
        tests: files or folders that pytest looks for tests in; all where empty.
    """

    command: tuple[str, ...] | None = None
    arguments: tuple[str, ...] = ()
    python: str = ""
    spare: float = 10.0
    roots: tuple[str, ...] = ("src", ".")
    limits: Limits = field(factory=lambda: Limits(seconds=900.0))
    tests: tuple[str, ...] = ()


class Runner(Protocol):
    """Runs tests by id, all where there is none; see `loraplug_bugs.language.Tester`."""

    def run(self, tests: Sequence[str], seconds: float, stop_after: int) -> Outcome:
        """See `Tester.run`."""

    def close(self) -> None:
        """See `Tester.close`."""


@frozen
class CommandRunner:
    """A test command, whose exit code is believed: 0 is passed."""

    box: Sandbox
    words: tuple[str, ...]

    def run(self, tests: Sequence[str], seconds: float, stop_after: int) -> Outcome:  # noqa: ARG002 - see Tester
        """The command with test ids in place of `{tests}`."""
        from loraplug_bugs.language import Failure

        words = [each for word in self.words for each in (tests if word == "{tests}" else (word,))]
        done = self.box.run(words, seconds)
        if done.killed is not None:
            return Outcome("time" if done.killed == "time" else "memory", seconds=done.seconds)
        if done.returncode in (126, 127):
            raise LoraplugError(f"the test command does not run: {done.output.strip()[-300:]}", where=words[0],
                                todo="give a command that works in a copy of the repository")  # fmt: skip
        if done.returncode == 0:
            return Outcome("passed", seconds=done.seconds)
        return Outcome("failed", [Failure("", f"exit code {done.returncode}", done.output[-2000:])], done.seconds)

    def close(self) -> None:
        """Nothing is held."""


class Bench:
    """A tree, a private copy to work in, and its tests.

    Args:
        tree: the staged tree; only read.
        home: where the copy is made.
        tongue: decides which files are code and which are tests.
        suffixes: only files that end so may be changed by answers; all texts where empty.
    """

    def __init__(
        self, tree: Path, home: Path, checking: Checking, tongue: Language, suffixes: Sequence[str] = ()
    ) -> None:
        self.box = Sandbox(tree, checking.limits, home=home, roots=checking.roots)
        self._spare = checking.spare
        self._suites: dict[object, tuple[tuple[str, ...], float] | None] = {}
        try:
            if checking.command is not None:
                self.runner: Runner = CommandRunner(self.box, checking.command)
            else:
                suite = tongue.suite(checking.tests, checking.arguments, checking.python)
                self.runner = suite.tester(self.box, Survey({}))
            self.texts = _texts(self.box.tree, tongue, suffixes)
        except BaseException:
            self.box.close()
            raise

    def close(self) -> None:
        """End and remove."""
        self.runner.close()
        self.box.close()

    def patched(self, patches: Sequence[str]) -> Files | str:
        """What `git apply` makes of the tree, patch after patch; its words where it refuses."""
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
        """What tests say with these files changed; all is put back after."""
        try:
            self.box.write(files)
            return self.runner.run(tests, seconds, stop_after)
        finally:
            self.box.restore()

    def seconds(self, usual: float) -> float:
        """What tests may take that usually take this long."""
        return self._spare + _PATIENCE * usual

    def suite(self, clean: Files, tests: Sequence[str]) -> tuple[tuple[str, ...], float] | None:
        """Those of `tests` that pass without the bug, and their seconds; None where they cannot be run there.

        No test ids stand for all there are. Each set is run once for each state of the files.
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


def _texts(tree: Path, tongue: Language, suffixes: Sequence[str]) -> dict[str, str]:
    """The files that an answer may change: texts that are not tests."""
    found: dict[str, str] = {}
    for name in sorted(stamps(tree)):
        path = tree / name
        if path.is_symlink() or tongue.is_test(name) or (suffixes and not name.endswith(tuple(suffixes))):
            continue
        if path.stat().st_size <= _LARGEST:
            try:
                found[name] = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                continue  # no answer can be about it
    return found


def _git_apply(box: Sandbox, patch: str) -> str:
    """Apply a patch to the copy; git's words where it does not. git keeps to the folder it runs in."""
    env = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C",
            "GIT_CEILING_DIRECTORIES": str(box.root)}  # fmt: skip
    text = patch if patch.endswith("\n") else f"{patch}\n"
    try:
        done = subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], cwd=box.tree, env=env, input=text.encode(),
                              capture_output=True, timeout=60, check=False)  # fmt: skip
    except FileNotFoundError:
        raise LoraplugError("git is not installed", todo="install git") from None
    return done.stderr.decode("utf-8", "replace").strip()[:300] if done.returncode else ""
