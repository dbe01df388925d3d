"""Results of an evaluation in a few lines: how many bugs were fixed, and one fixed bug."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loraplug_swe.evaluation.cases import Case
from loraplug_swe.evaluation.results import Result


def brief(told: Mapping[str, Any], cases: Mapping[str, Case], results: Sequence[Result]) -> Iterator[str]:
    """The first bug that was fixed, with its tests before and after, then the headline."""
    fixed = next((one for one in results if one.status == "resolved" and one.model != "base"), None)
    if fixed is not None:
        yield from _example(cases[fixed.task], fixed)
        yield ""
    yield headline(told)


def headline(told: Mapping[str, Any]) -> str:
    """For one answer per task: `resolved 5 of 16, base 0 of 16`."""
    models = {name: each["all"] for name, each in told["models"].items()}
    counts = [
        f"{'base ' if name == 'base' else ''}{found['resolved']} of {found['answers']}"
        for name, found in models.items()
    ]
    return f"resolved {', '.join(counts)}"


def _example(case: Case, fixed: Result) -> Iterator[str]:
    task = case.task
    yield f"A bug that was fixed: {task.kind.replace('_', ' ')}, `{task.function}` in {task.file}"
    yield ""
    yield "--- the tests before ---"
    yield task.statement
    yield ""
    yield "--- the fix ---"
    yield fixed.diff.strip("\n")
    yield ""
    yield "--- the tests after ---"
    for test in task.targets:
        yield f"PASSED {test}"
    if case.suite is not None:
        others = len(set(case.suite[0]) - set(task.targets))
        yield f"PASSED {others} more, which also passed before the bug"
