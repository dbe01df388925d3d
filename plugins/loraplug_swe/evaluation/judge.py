"""Applies and tests an answer, and confirms the verdict if it passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import evolve, frozen

from loraplug_swe.edits import Refused, apply, unified_diff
from loraplug_swe.evaluation.bench import SHOWN, Bench
from loraplug_swe.evaluation.cases import Case, tongue_of
from loraplug_swe.evaluation.flags import flags
from loraplug_swe.mutation.language import Outcome

Status = Literal["resolved", "applied", "invalid", "flagged", "void"]
_WHY = {"time": "takes too long", "memory": "takes too much memory", "processes": "starts too many processes",
        "disk": "writes too much", "output": "prints too much", "broken": "cannot be imported or run",
        "crash": "ends the process"}  # fmt: skip
_FORGED = "tampers with the test results"


@frozen
class Verdict:
    """The verdict on an answer.

    Attributes:
        status: `resolved`: the failing tests pass, and so does the suite, in a fresh process with control tests;
            `applied`: it changes the code, but some tests fail; `invalid`: it changes nothing; `flagged`: the tests
            pass, but it looks overfitted to them; `void`: it tampers with the test results.
        reason: a short reason to count, for every status but `resolved`.
        detail: a sentence that explains it.
        exact: False if errors in its format had to be tolerated.
        diff: what it changes in the code with the bug.
        failing: the first few tests that fail with it.
    """

    status: Status
    reason: str = ""
    detail: str = ""
    exact: bool = True
    diff: str = ""
    failing: tuple[str, ...] = ()


@frozen
class Change:
    """What an answer makes of the code.

    Attributes:
        diff: from the code with the bug.
        files: new texts of the files that it changes, by path.
        exact: False if errors in its format had to be tolerated.
    """

    diff: str
    files: Mapping[str, str]
    exact: bool


def change_of(texts: Mapping[str, str], case: Case, answer: str) -> Change | Verdict:
    """What an answer changes, or why it changes nothing; runs no test.

    Args:
        texts: see `Workroom.texts`.
    """
    files: dict[str, str] = {path: text for path, text in texts.items() if path not in case.broken}
    files |= {path: text for path, text in case.broken.items() if text is not None and not _is_test(case, path)}
    done = apply(answer, files, case.edit, case.target, tongue_of(case.task).functions)
    if isinstance(done, Refused):
        return Verdict("invalid", done.reason, done.detail)
    diff = "".join(unified_diff(path, files[path], text) for path, text in sorted(done.files.items()))
    return Change(diff, done.files, done.exact)


def judge(bench: Bench, case: Case, answer: str) -> Verdict:
    """Apply an answer to the code with the bug, and run the failing tests, then the suite."""
    change = change_of(bench.texts, case, answer)
    return change if isinstance(change, Verdict) else evolve(_tested(bench, case, change), exact=change.exact)


def _tested(bench: Bench, case: Case, change: Change) -> Verdict:
    files, diff = {**case.broken, **change.files}, change.diff
    outcome = bench.run(files, case.task.targets, bench.seconds(case.seconds), SHOWN)
    if outcome.verdict != "passed":
        return _applied(outcome, "the failing tests still fail", diff)
    tests, usual = case.suite or ((), 0.0)
    every = tuple(dict.fromkeys([*case.task.targets, *tests]))
    if (not tests and case.suite is not None) or (bench.by_command and tests):  # all there are, by whatever command
        outcome = bench.run(files, tests, bench.seconds(usual), SHOWN)
        if outcome.verdict != "passed":
            return _applied(outcome, "breaks other tests", diff)
    outcome = bench.confirm(files, every, case.controlled, bench.seconds(case.seconds + usual), case.may_change)
    if outcome.verdict != "passed":
        return _applied(outcome, "breaks other tests", diff)
    if signs := _signs(bench, case, change.files):
        return Verdict("flagged", "fits the tests", "; ".join(signs)[:600], diff=diff)
    return Verdict("resolved", diff=diff)


def _signs(bench: Bench, case: Case, changed: Mapping[str, str]) -> list[str]:
    tests: dict[str, list[str]] = {}
    for test in case.task.targets:
        path, _, name = test.partition("::")
        tests.setdefault(path, []).append(name)
    before = bench.texts | {path: text for path, text in case.broken.items() if text is not None}
    clean = bench.texts | {path: text for path, text in case.clean.items() if text is not None}
    texts = bench.tests | {path: text for path, text in case.clean.items() if text is not None}
    return flags(before, changed, clean, tests, texts)


def usable(texts: Mapping[str, str], case: Case, answer: str) -> bool:
    """Whether an answer changes the code, and leaves files that can be parsed; runs no test."""
    change = change_of(texts, case, answer)
    if isinstance(change, Verdict):
        return False
    tongue = tongue_of(case.task)
    try:
        for path, text in change.files.items():
            if path.endswith(tuple(tongue.suffixes)):
                tongue.functions(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _applied(outcome: Outcome, reason: str, diff: str) -> Verdict:
    first: Any = next(iter(outcome.failures), None)
    detail = f"{first.test}: {first.error}: {first.message}".removeprefix(": ").rstrip(": ")[-600:] if first else ""
    failing = tuple(failure.test for failure in outcome.failures if failure.test)
    if outcome.verdict == "void":
        return Verdict("void", _FORGED, detail, diff=diff)
    return Verdict("applied", _WHY.get(outcome.verdict, reason), detail, True, diff, failing)


def _is_test(case: Case, path: str) -> bool:
    return tongue_of(case.task).is_test(path)
