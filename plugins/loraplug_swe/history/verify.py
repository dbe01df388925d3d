"""Verifies that tests detect a fix: they fail without it and pass with it, twice, and when run alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import asdict, field, frozen

from loraplug_swe.evaluation.bench import Bench, Files
from loraplug_swe.mutation.language import Failure, Outcome, Report

ARGUMENTS = ("--continue-on-collection-errors",)
"""For pytest: a file that cannot be imported does not keep the others from being run."""
_WHY = {"time": "takes too long", "memory": "takes too much memory", "processes": "starts too many processes",
        "disk": "writes too much", "output": "prints too much", "crash": "ends the process",
        "void": "tampers with the test results", "broken": "its tests cannot be run"}  # fmt: skip


@frozen
class Verdict:
    """The verdict on a commit: `fix` with the tests that detect it, or why it gives no row.

    Attributes:
        fail_to_pass: tests that fail without the fix and pass with it; pass_to_pass: tests that pass in both cases.
        failures: how the first of these fail without it.
        flaky: number of tests left out because two runs differ.
        bug: the patch that reverts the fix on the newest commit; mend: its reverse.
    """

    reason: str
    detail: str = ""
    fail_to_pass: tuple[str, ...] = ()
    pass_to_pass: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    flaky: int = 0
    bug: str = ""
    mend: str = ""


class _Refused(Exception):  # noqa: N818 - a verdict
    pass


@frozen
class Runs:
    """Runs of all tests of a tree, each made on first use."""

    make: Callable[[], Report]
    _made: list[Report] = field(factory=list, init=False)

    def __getitem__(self, at: int) -> Report:
        while len(self._made) <= at:
            self._made.append(self.make())
        return self._made[at]


TwoRuns = Runs | tuple[Report, ...]


def whole(bench: Bench, files: Files, tests: Sequence[str]) -> Runs:
    """Runs of the suite with these files changed."""
    return Runs(lambda: _report(bench, files, tests))


def verify(bench: Bench, old: Files, new: Files, first: Sequence[str], tests: Sequence[str], clean: TwoRuns) -> Verdict:
    """Compare the test results of two states of one tree.

    Args:
        old, new: files as they are without and with the fix, where they differ from the bench's tree.
        first: test files to run before all others, to see whether any fails; empty: skip this.
        tests: the suite; empty: all tests.
        clean: two runs of it with the fix.
    """
    try:
        return _verify(bench, old, new, first, tests, clean)
    except _Refused as refused:
        return Verdict(*refused.args)


def _verify(
    bench: Bench, old: Files, new: Files, first: Sequence[str], tests: Sequence[str], clean: TwoRuns
) -> Verdict:
    if first and not _failed(seen := _report(bench, old, first)):
        if seen.code not in (0, 5) and "passed" not in _report(bench, new, first).outcomes.values():
            raise _Refused("its tests cannot be imported here", f"pytest exited with {seen.code}")
        _some_fail(seen, "no test fails without it")
    if "passed" not in clean[0].outcomes.values():
        raise _Refused("no test passes", f"pytest exited with {clean[0].code}")
    bug = whole(bench, old, tests)
    _some_fail(bug[0], "no test fails without it")
    if not any(clean[0].outcomes.get(test) == "passed" for test in _failed(bug[0])):
        raise _Refused("its tests fail with it too", ", ".join(_failed(bug[0])[:3]))
    every = clean[0].outcomes.keys() | clean[1].outcomes.keys() | bug[0].outcomes.keys() | bug[1].outcomes.keys()
    said = [{one.test: (one.error, one.message) for one in run.failures} for run in (bug[0], bug[1])]
    flaky = {
        test
        for test in every
        if any(run[0].outcomes.get(test) != run[1].outcomes.get(test) for run in (clean, bug))
        or said[0].get(test) != said[1].get(test)
    }
    passing = [test for test, how in clean[0].outcomes.items() if how == "passed" and test not in flaky]
    targets = [test for test in passing if bug[0].outcomes.get(test) == "failed"]
    if not targets:
        raise _Refused("flaky tests", f"two runs differ: {', '.join(sorted(flaky)[:3])}")
    usual = sum(clean[0].seconds for _ in targets[:1])
    fixed, _, _ = bench.without_bug(new, targets, bench.seconds(usual))
    if fixed.verdict == "void":
        raise _Refused(_WHY["void"])
    if fixed.verdict != "passed":
        raise _Refused("its tests depend on others", _told(fixed))
    again = bench.run(old, targets, bench.seconds(usual), stop_after=len(targets))
    failing = {one.test: one for one in again.failures}
    if failing.keys() != set(targets):
        raise _Refused("its tests depend on others", _told(again))
    kept = tuple(test for test in passing if bug[0].outcomes.get(test) == "passed")
    return Verdict("fix", "", tuple(targets), kept, tuple(failing[test] for test in targets[:5]), len(flaky))


def _some_fail(report: Report, otherwise: str) -> None:
    if _failed(report):
        return
    if not report.outcomes and report.code == 5:
        raise _Refused("its tests run nothing")
    if report.code not in (0, 5):  # none failed, so some could not be collected
        raise _Refused("its tests cannot be imported without it", f"pytest exited with {report.code}")
    raise _Refused(otherwise)


def _failed(report: Report) -> list[str]:
    return [test for test, how in report.outcomes.items() if how == "failed"]


def _report(bench: Bench, files: Files, tests: Sequence[str]) -> Report:
    """How every test ended, in a fresh process."""
    report: Any = getattr(bench.runner, "report", None)
    if report is None:
        raise _Refused("its language has no test report")
    try:
        bench.box.write(files)
        told: Report | Outcome = report(list(tests), bench.box.limits.seconds, 0)
    finally:
        bench.box.restore()
    if isinstance(told, Outcome):
        raise _Refused(_WHY.get(told.verdict, told.verdict), _told(told))
    if told.exit != told.code:
        raise _Refused(_WHY["void"], f"the process exited with {told.exit}, its report says {told.code}")
    return told


def _told(outcome: Outcome) -> str:
    failures = outcome.failures
    said = f"{failures[0].test} {failures[0].error} {failures[0].message}"[:300].strip() if failures else ""
    return said or outcome.verdict


def as_line(key: str, verdict: Verdict) -> str:
    """A line of the journal."""
    return json.dumps({"key": key, **asdict(verdict)}) + "\n"


def as_verdict(told: Mapping[str, Any]) -> Verdict:
    """What `as_line` wrote; raises KeyError, TypeError or ValueError for other input."""
    failures = tuple(Failure(**{**one, "trace": [tuple(place) for place in one["trace"]]}) for one in told["failures"])
    return Verdict(told["reason"], told["detail"], tuple(told["fail_to_pass"]), tuple(told["pass_to_pass"]), failures,
                   told["flaky"], told["bug"], told["mend"])  # fmt: skip
