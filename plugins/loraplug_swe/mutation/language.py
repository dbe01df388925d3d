"""What `swe-bugs` needs of a programming language: where functions are, what to break, how to run the tests.

Python is built in. A plugin package brings another one by an entry point in the group `loraplug.languages`, named by
the language, whose object is a `Language`; the recipe asks for it with `language = "…"`. Nothing need be imported from
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
        lines: first and last line, from 1, of the statement changed; tests that run none of them cannot notice.
        note: what was done, for people.
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
    """What the suite does on the unchanged tree.

    Attributes:
        tests: ids of the tests that pass, in the order of the suite, to their seconds.
        flaky: ids of tests that did not end alike in both runs.
        failing: ids of tests that fail.
        lines: for every file (relative path) and line from 1, positions in `tests` of those that run it; -1 stands for
            what runs while modules are imported.
        more: whatever the suite wants to remember; JSON.
    """

    tests: Mapping[str, float]
    flaky: Sequence[str] = ()
    failing: Sequence[str] = ()
    lines: Mapping[str, Mapping[int, Sequence[int]]] = field(factory=dict)
    more: Mapping[str, Any] = field(factory=dict)


@frozen
class Environment:
    """What the tests of some code need of this machine beside the system and the code.

    Attributes:
        readable: files and folders that are there inside, read-only.
        links: names in the copy of the code, and the absolute paths they are symbolic links to, such as a folder of
            installed packages; there inside, too.
        identity: names versions; what was found out with another one does not hold any more.
    """

    readable: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    identity: str = ""

    def added(self, limits: Limits) -> Limits:
        """The limits of a sandbox that has it."""
        readable = tuple(dict.fromkeys([*limits.readable, *self.readable]))
        return evolve(limits, readable=readable, links=self.links)


@frozen
class Failure:
    """How one test failed, in words free of addresses and of the sandbox's paths.

    Attributes:
        test: its id.
        error: type of the exception, such as `AssertionError`.
        message: its text.
        trace: (file, line from 1, function, source line) from the test inwards, files of the tree only.
        check: the source of what the test checked, or "".
        expected, actual: what the check compared, as text; "" where it is not known.
        left, right: the same where it is not known which of the two was expected.
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
    """What some tests did: `failed` has `failures`; `broken` means they could not even be collected.

    `time`, `memory`, `processes`, `disk` and `output` name the limit that was met; `void` means that what came was no
    answer to what was asked.
    `counts` is how many of them ended how (`passed`, `failed`, `skipped`); empty where the suite does not tell.
    """

    verdict: Verdict
    failures: Sequence[Failure] = ()
    seconds: float = 0.0
    counts: Mapping[str, int] = field(factory=dict)


@frozen
class Report:
    """How each test of a fresh process ended, for one who believes no summary.

    Attributes:
        outcomes: `passed`, `failed` or `skipped` by test id.
        code: what the test runner says it ends with; exit: what its process ended with.
    """

    outcomes: Mapping[str, str]
    code: int
    exit: int
    failures: Sequence[Failure] = ()
    seconds: float = 0.0


class Tester(Protocol):
    """Runs tests in one sandbox, again and again. Used by one thread."""

    def run(self, tests: Sequence[str], seconds: float, stop_after: int) -> Outcome:
        """Run these tests on the tree as it is now, at most `seconds`; may stop when so many of them have failed."""

    def close(self) -> None:
        """Let go of what is held."""


class Suite(Protocol):
    """A test suite."""

    def survey(self, box: Sandbox) -> BaselineRun:
        """Run the suite twice on the unchanged tree, and find which test runs which line.

        Raises:
            LoraplugError: the suite cannot be run.
        """

    def tester(self, box: Sandbox, survey: BaselineRun) -> Tester:
        """A tester in `box`, warmed up as far as possible."""


class Language(Protocol):
    """A programming language.

    A language may also have `controls(texts, tests, draw)`, see `loraplug_swe.sandbox.controls.python_controls`, and
    its tester `report(tests, seconds, stop_after)`, see `loraplug_swe.mutation.python.PytestTester.report`: what passes
    in `eval`, and bugs that `swe-bugs` keeps, are then confirmed in a fresh process, beside tests that must fail.
    `environment(path, command)` gives the `Environment` of the code at `path`, as a recipe's `path` names it, under the
    `command` of `suite`; InputError where there is none. Without it there is only the system, and this Python.
    Bugs of more than one statement come from `large_mutations(text, small)`, given those of `mutations`, of the kinds
    `large_kinds`; recipes have them only where they name them.

    Attributes:
        name: as the recipe names it; also the mark of code fences.
        suffixes: of its source files.
        kinds: all kinds of mutation there are.
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
        """Whether a file belongs to the tests, and gets no bugs."""

    def functions(self, text: str) -> Sequence[Span]:
        """All functions of a file; SyntaxError where there is no understanding it."""

    def mutations(self, text: str) -> Sequence[Mutation]:
        """Every bug that could be put into the functions of a file, in a fixed order, each giving a valid file."""

    def suite(self, tests: Sequence[str], arguments: Sequence[str], command: str) -> Suite:
        """The tests of a tree: `tests`, files or folders in it (all where empty), with `arguments` for the test runner.

        `command` is the program that runs it; "" stands for the usual one.
        """


def language(name: str) -> Language:
    """The language of this name.

    Raises:
        InputError: nobody brings it.
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
    """The environment of some code; empty where the language has no need of one.

    Raises:
        InputError: the code's tests cannot run on this machine.
    """
    made: Any = getattr(tongue, "environment", None)
    found: Environment = Environment() if made is None else made(path, command)
    return found
