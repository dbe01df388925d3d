"""Preparing tasks: injecting the bug, checking that its tests fail, writing the prompt."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from attrs import evolve, field, frozen

from loraplug import InputError
from loraplug_swe.edits import Format
from loraplug_swe.evaluation.bench import Bench, Checking, Files, read_texts
from loraplug_swe.evaluation.reading import Task
from loraplug_swe.mutation.language import Environment, Failure, Language, environment, language
from loraplug_swe.mutation.problem_statement import problem_statement
from loraplug_swe.mutation.prompts import Context, ask
from loraplug_swe.sandbox.checkout import stage

_OPEN = 3  # commits whose copies are kept at once
Style = Literal["swe-bugs", "swe-synth"]


@frozen
class PromptOptions:
    """How prompts are written; None uses the task's own setting, else the default of `swe-bugs`.

    Attributes:
        hidden: failing tests hidden from the prompt, a number (1 or more) or a share (below 1); one is always shown.
        seed: selects the hidden tests.
    """

    edit: Format | None = None
    context: Context | None = None
    hidden: float = 0.0
    seed: int = 42


@frozen
class Case:
    """A task that can be evaluated here.

    Attributes:
        instruction: the prompt.
        edit: the format of the answer.
        broken: the files with the bug that differ from the commit.
        target: path and function of the bug, if the task names them.
        seconds: duration of the failing tests without the bug.
        suite: the tests that a fix must pass, and their duration; None if only the failing tests decide.
        clean: the files without the bug that differ from the commit.
        controlled: the failing tests whose control tests fail without the bug, as they must.
        may_change: test files that change while the tests run without the bug.
        hidden: failing tests that the instruction does not show.
    """

    task: Task
    instruction: str
    edit: Format
    broken: Files
    target: tuple[str, str] | None
    seconds: float
    suite: tuple[tuple[str, ...], float] | None
    clean: Files = field(factory=dict)
    controlled: tuple[str, ...] = ()
    may_change: frozenset[str] = frozenset()
    hidden: tuple[str, ...] = ()


@frozen
class Unfit:
    """A task that cannot be evaluated here, and why."""

    task: Task
    reason: str
    detail: str = ""


class Workroom:
    """Opens benches by commit, a few at a time for each thread.

    Args:
        repos: paths of code by owner/name in lower case; "" is for all others.
        tests_path: a folder of tests outside the code.
        scratch: a private folder; the caller removes it.
        whole: a fix must pass all tests that pass without the bug, not only the related ones.
        needs: what tests need beside the code, by its path and language, where that is known.
    """

    def __init__(
        self, repos: Mapping[str, str], tests_path: Path | None, checking: Checking, scratch: Path, whole: bool,
        needs: Mapping[tuple[str, str], Environment] | None = None,
    ) -> None:  # fmt: skip
        self.repos, self.tests_path, self.checking, self.scratch = repos, tests_path, checking, scratch
        self.whole = whole
        self._needs = dict(needs or {})
        self._benches: dict[int, dict[tuple[str, str, str], Bench]] = {}  # by thread
        self._trees: dict[tuple[str, str], Path] = {}
        self._texts: dict[tuple[str, str, str], dict[str, str]] = {}
        self._lock = threading.Lock()
        self.gaps: tuple[str, ...] = ()

    def __enter__(self) -> Workroom:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in list(self._benches):
            self._close(thread)

    def leave(self) -> None:
        """Close the benches of the calling thread."""
        self._close(threading.get_ident())

    def end_tests(self) -> None:
        """End what runs in the benches of all threads."""
        for benches in list(self._benches.values()):
            for bench in list(benches.values()):
                bench.box.end_inside()

    def _close(self, thread: int) -> None:
        for bench in self._benches.pop(thread, {}).values():
            bench.close()

    def place(self, task: Task) -> str:
        """Where the code of a task is.

        Raises:
            InputError: that is not known.
        """
        place = self.repos.get(task.repo.lower()) or self.repos.get("")
        if place is None:
            todo = f"give the path of its code: --repo {task.repo}=PATH"
            raise InputError(f"no repository {task.repo} was named", where=f"task {task.id}", todo=todo)
        return place

    def needs(self, task: Task) -> Environment:
        """What the tests of a task need beside its code.

        Raises:
            InputError: it is not on this machine, or no plugin supports the language.
        """
        key = self.place(task), task.language
        if key not in self._needs:
            self._needs[key] = environment(tongue_of(task), key[0], self.checking.python)
        return self._needs[key]

    def bench(self, task: Task) -> Bench:
        """The bench of a task's commit, for the calling thread alone.

        Raises:
            InputError: the code or commit is missing, or no plugin supports the language.
            LoraplugError: the tests cannot be run.
        """
        key = (self.place(task), task.commit, task.language)
        benches = self._benches.setdefault(threading.get_ident(), {})
        if key in benches:
            benches[key] = benches.pop(key)  # the latest is last
            return benches[key]
        while len(benches) >= _OPEN:
            benches.pop(next(iter(benches))).close()
        checking = evolve(self.checking, limits=self.needs(task).added(self.checking.limits))
        benches[key] = Bench(self._tree(task), self.scratch, checking, tongue_of(task), _suffixes(task))
        return benches[key]

    def texts(self, task: Task) -> Mapping[str, str]:
        """`Bench.texts` of a task's commit, without a bench; raises as `bench`."""
        key = (self.place(task), task.commit, task.language)
        if key not in self._texts:
            while len(self._texts) >= _OPEN:
                self._texts.pop(next(iter(self._texts)))
            self._texts[key] = read_texts(self._tree(task), tongue_of(task), _suffixes(task))[0]
        return self._texts[key]

    def _tree(self, task: Task) -> Path:
        place, commit = key = self.place(task), task.commit
        with self._lock:
            if key not in self._trees:
                out = self.scratch / f"tree-{len(self._trees)}"
                self._trees[key] = stage(place, commit or "HEAD", None, self.tests_path, out).tree
            return self._trees[key]

    def prepare(self, task: Task, asked: PromptOptions) -> Case | Unfit:
        """Inject the bug, check that the expected tests fail, and write the prompt."""
        bench = self.bench(task)
        clean = bench.patched(task.clean)
        if isinstance(clean, str):
            return Unfit(task, "the gold patch does not apply", clean)
        broken = bench.patched(task.broken)
        if isinstance(broken, str):
            return Unfit(task, "the bug patch does not apply", broken)
        most = bench.box.limits.seconds
        without, controlled, may_change = bench.without_bug(clean, task.targets, most)
        self.gaps = bench.box.gaps
        if without.verdict != "passed":
            return Unfit(task, "its tests do not pass without the bug", _told(without))
        with_bug = bench.run(broken, task.targets, bench.seconds(without.seconds), stop_after=len(task.targets))
        if with_bug.verdict == "passed":
            return Unfit(task, "its tests pass with the bug in")
        hidden = held_back(task, asked)
        wanted = task.suite if self.whole or not task.related else task.related
        suite = bench.suite(clean, wanted)
        target = (task.file, task.function) if task.file and task.function else None
        try:
            told = evolve(task, statement=_without(task, with_bug.failures, hidden))
            instruction, edit = question(told, bench.texts | _there(broken), tongue_of(task), asked)
        except InputError as error:
            return Unfit(task, "its prompt cannot be written", error.what)
        return Case(
            task, instruction, edit, broken, target, without.seconds, suite, clean, controlled, may_change, hidden
        )


def question(task: Task, texts: Mapping[str, str], tongue: Language, asked: PromptOptions) -> tuple[str, Format]:
    """The prompt and the format of the answer, the same as `swe-bugs` and `swe-synth` use in training.

    If a task does not name the function of its bug (`generation.function`), the prompt is its statement alone and the
    answer is a diff, as in `swe-synth`.

    Raises:
        InputError: the code to show is missing.
    """
    if not task.function or not task.file:
        return task.statement, asked.edit or "diff"
    edit = asked.edit or _format(task.asked.get("edit", "search-replace"))
    context = asked.context or _context(task.asked.get("context", "function"))
    text = texts.get(task.file)
    try:
        known = text is not None and any(span.name == task.function for span in tongue.functions(text))
    except SyntaxError:
        known = False
    if text is None or (context == "function" and not known):
        raise InputError(f"no function {task.function} in {task.file}", where=f"task {task.id}")
    return ask(task.statement, task.file, text, task.function, tongue, context, edit), edit


def held_back(task: Task, asked: PromptOptions) -> tuple[str, ...]:
    """The failing tests to hide; one is always shown."""
    tests = sorted(task.targets)
    count = int(asked.hidden) if asked.hidden >= 1 else math.ceil(asked.hidden * len(tests))
    random.Random(f"{asked.seed} {task.id}").shuffle(tests)  # noqa: S311 - a draw, not a secret
    return tuple(tests[: min(count, len(tests) - 1)])


def _without(task: Task, failures: Sequence[Failure], hidden: tuple[str, ...]) -> str:
    """The statement, rewritten from the other tests if it mentions a hidden one.

    Raises:
        InputError: no other test shows how it fails.
    """
    names = {test.partition("[")[0].rpartition("::")[2] for test in hidden}
    if not any(name in task.statement for name in names):
        return task.statement
    left = [failure for failure in failures if failure.test not in hidden and failure.test]
    if not left:
        raise InputError("its failing tests cannot be hidden: no other test shows how it fails")
    return problem_statement(left, task.language or "python")


def tongue_of(task: Task) -> Language:
    """The language of a task; Python if it names none."""
    return language(task.language or "python")


def _suffixes(task: Task) -> Sequence[str]:
    return tongue_of(task).suffixes if task.language else ()


def by_commit(tasks: Sequence[Task]) -> Iterator[Task]:
    """Tasks grouped by commit, otherwise in their order."""
    first: dict[tuple[str, str], int] = {}
    for at, task in enumerate(tasks):
        first.setdefault((task.repo, task.commit), at)
    yield from sorted(tasks, key=lambda task: first[task.repo, task.commit])


def _format(name: str) -> Format:
    known: Format
    for known in get_args(Format):
        if name == known:
            return known
    raise InputError(f"no format {name!r}", todo=f"known: {', '.join(get_args(Format))}")


def _context(name: str) -> Context:
    for known in ("function", "file", "none"):
        if name == known:
            return known
    raise InputError(f"no context {name!r}", todo="known: function, file, none")


def _there(files: Files) -> dict[str, str]:
    return {path: text for path, text in files.items() if text is not None}


def _told(outcome: object) -> str:
    failures = getattr(outcome, "failures", ())
    return f"{failures[0].test} {failures[0].error} {failures[0].message}"[:300] if failures else str(
        getattr(outcome, "verdict", ""))  # fmt: skip
