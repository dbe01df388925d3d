"""A task that can be evaluated: its prompt, and which of its failing tests the prompt shows."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

from attrs import field, frozen

from loraplug import InputError
from loraplug_swe.edits import Format
from loraplug_swe.evaluation.bench import Files
from loraplug_swe.evaluation.reading import Task
from loraplug_swe.mutation.language import Failure, Language, language
from loraplug_swe.mutation.problem_statement import problem_statement
from loraplug_swe.mutation.prompts import Context, ask

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


def without_hidden(task: Task, failures: Sequence[Failure], hidden: tuple[str, ...]) -> str:
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
