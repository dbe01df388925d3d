"""The interface of a programming language for `swe-bugs`: finding functions, mutating them, running the tests.

Python is built in. A plugin package adds another one with an entry point in the group `loraplug.languages`, named
after the language, whose object is a `Language`; recipes select it with `language = "…"`. Nothing need be imported from
here: the classes below are protocols, and `Mutation`, `Span`, `BaselineRun` and `Outcome` may be any objects with these
attributes.
"""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from attrs import evolve, field, frozen

from loraplug import InputError

if TYPE_CHECKING:
    from loraplug_swe.mutation.functions import Span
    from loraplug_swe.sandbox.limits import Limits
    from loraplug_swe.sandbox.sandbox import Sandbox

GROUP = "loraplug.languages"
Verdict = Literal["passed", "failed", "broken", "time", "memory", "processes", "disk", "output", "crash", "void"]


@frozen
class Mutation:
    """One bug to try: characters `start` to `stop` of a file become `replacement`.

    Attributes:
        kind: a short stable name, such as `off_by_one`.
        function: qualified name of the innermost function changed.
        lines: first and last line, from 1, of the statement changed; tests that run none of them cannot detect it.
        note: a description of the change, for people.
    """

    kind: str
    function: str
    start: int
    stop: int
    replacement: str
    lines: tuple[int, int]
    note: str

    def apply(self, text: str) -> str:
        """The text with the bug in it."""
        return text[: self.start] + self.replacement + text[self.stop :]


@frozen
class BaselineRun:
    """Test results on the unchanged tree.

    Attributes:
        tests: ids of the tests that pass, in the order of the suite, with their duration in seconds.
        flaky: ids of tests whose results differ between the two runs.
        failing: ids of tests that fail.
        lines: for every file (relative path) and line from 1, positions in `tests` of those that run it; -1 stands for
            lines that run at import.
        more: further data of the suite; JSON.
    """

    tests: Mapping[str, float]
    flaky: Sequence[str] = ()
    failing: Sequence[str] = ()
    lines: Mapping[str, Mapping[int, Sequence[int]]] = field(factory=dict)
    more: Mapping[str, Any] = field(factory=dict)


@frozen
class Environment:
    """What tests need from this machine besides the system and the code.

    Attributes:
        readable: files and folders that the sandbox shows read-only.
        links: names in the copy of the code, and the absolute paths they are symbolic links to, such as a folder of
            installed packages; there inside, too.
        identity: versions; cached results of another identity are not reused.
    """

    readable: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    identity: str = ""

    def added(self, limits: Limits) -> Limits:
        """The limits of a sandbox with this environment."""
        readable = tuple(dict.fromkeys([*limits.readable, *self.readable]))
        return evolve(limits, readable=readable, links=self.links)


@frozen
class Failure:
    """How one test failed, without memory addresses and sandbox paths.

    Attributes:
        test: its id.
        error: type of the exception, such as `AssertionError`.
        message: its text.
        trace: (file, line from 1, function, source line) from the test inwards, only files of the tree.
        check: the source of the failed check, or "".
        expected, actual: the compared values as text; "" if unknown.
        left, right: the same if it is unknown which one was expected.
    """

    test: str
    error: str
    message: str
    trace: Sequence[tuple[str, int, str, str]] = ()
    check: str = ""
    expected: str = ""
    actual: str = ""
    left: str = ""
    right: str = ""


@frozen
class Outcome:
    """The result of a test run: `failed` has `failures`; `broken` means that collection failed.

    `time`, `memory`, `processes`, `disk` and `output` name the limit that was exceeded; `void` means that the
    reply was not a valid answer to the job.
    `counts` has the number of tests by outcome (`passed`, `failed`, `skipped`); empty if the suite does not report it.
    """

    verdict: Verdict
    failures: Sequence[Failure] = ()
    seconds: float = 0.0
    counts: Mapping[str, int] = field(factory=dict)


@frozen
class Report:
    """The outcome of each test in a fresh process.

    Attributes:
        outcomes: `passed`, `failed` or `skipped` by test id.
        code: exit code that the test runner reports; exit: exit code of its process.
    """

    outcomes: Mapping[str, str]
    code: int
    exit: int
    failures: Sequence[Failure] = ()
    seconds: float = 0.0


class Tester(Protocol):
    """Runs tests in one sandbox repeatedly. Not thread-safe."""

    def run(self, tests: Sequence[str], seconds: float, stop_after: int) -> Outcome:
        """Run these tests on the current tree for at most `seconds`; may stop after `stop_after` failures."""

    def close(self) -> None:
        """Release resources."""


class Suite(Protocol):
    """A test suite."""

    def survey(self, box: Sandbox) -> BaselineRun:
        """Run the suite twice on the unchanged tree, with line coverage per test.

        Raises:
            LoraplugError: the suite cannot be run.
        """

    def tester(self, box: Sandbox, survey: BaselineRun) -> Tester:
        """A warmed-up tester in `box`."""


class Language(Protocol):
    """A programming language.

    A language may also have `controls(texts, tests, draw)`, see `loraplug_swe.sandbox.controls.python_controls`, and
    its tester `report(tests, seconds, stop_after)`, see `loraplug_swe.mutation.python.PytestTester.report`: passing
    answers in `eval`, and bugs of `swe-bugs`, are then confirmed in a fresh process with control tests that must fail.
    `environment(path, command)` gives the `Environment` of the code at `path`, as a recipe's `path` names it, under the
    `command` of `suite`; InputError if there is none. Without it, tests see only the system and this Python.
    Bugs of more than one statement come from `large_mutations(text, small)`, given those of `mutations`, of the kinds
    `large_kinds`; recipes have them only where they name them.

    Attributes:
        name: its name in recipes; also the info string of code fences.
        suffixes: of its source files.
        kinds: all kinds of mutation.
    """

    @property
    def name(self) -> str:
        """See the class."""

    @property
    def suffixes(self) -> Sequence[str]:
        """See the class."""

    @property
    def kinds(self) -> Sequence[str]:
        """See the class."""

    def is_test(self, path: str) -> bool:
        """Whether a file belongs to the tests, which get no bugs."""

    def functions(self, text: str) -> Sequence[Span]:
        """All functions of a file; raises SyntaxError if it cannot be parsed."""

    def mutations(self, text: str) -> Sequence[Mutation]:
        """Every possible bug in the functions of a file, in a fixed order; each gives a valid file."""

    def suite(self, tests: Sequence[str], arguments: Sequence[str], command: str) -> Suite:
        """The tests of a tree: `tests`, files or folders in it (empty: all), with `arguments` for the test runner.

        `command` is the program that runs it; "" is the default.
        """


def language(name: str) -> Language:
    """The language of this name.

    Raises:
        InputError: no plugin provides it.
    """
    from importlib.metadata import entry_points

    if name == "python":
        from loraplug_swe.mutation.python import Python

        return Python()
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise InputError(
            f"no language {name!r}",
            where="dataset.language",
            todo=f"known: {', '.join(sorted({'python', *found}))}; others come by entry points in the group {GROUP}",
        )
    loaded: Language = found[name].load()
    return loaded


def environment(tongue: Language, path: str, command: str) -> Environment:
    """The environment of some code; empty if the language needs none.

    Raises:
        InputError: the code's tests cannot run on this machine.
    """
    made: Any = getattr(tongue, "environment", None)
    found: Environment = Environment() if made is None else made(path, command)
    return found
