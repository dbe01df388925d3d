"""Tries bugs in parallel, keeps those that tests detect, and records every verdict."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, field, frozen

from loraplug import InputError, Job, LoraplugError, Run
from loraplug_swe.mutation.candidates import Candidate, Found
from loraplug_swe.mutation.language import BaselineRun, Failure, Outcome, Report, Suite, Tester
from loraplug_swe.sandbox.controls import Controls, judged
from loraplug_swe.sandbox.limits import Limits
from loraplug_swe.sandbox.sandbox import Sandbox

_PATIENCE = 6.0  # times the usual seconds of the tests, on top of `timeout`
_FORGED = "tampers with the test results"


@frozen
class Verdict:
    """The verdict on a candidate: `bug` with its test failures, or why it was discarded.

    Attributes:
        ran: counts of test outcomes in each run behind the verdict; see `Bug`.
    """

    reason: str
    failures: tuple[Failure, ...] = ()
    ran: Mapping[str, Mapping[str, int]] = field(factory=dict, eq=False)

    @property
    def signature(self) -> str:
        """Equal for bugs with the same test failures."""
        return json.dumps(sorted((one.test, one.error, one.message) for one in self.failures))


@frozen
class Bug:
    """A candidate that was kept.

    Attributes:
        ran: counts of test outcomes (`passed`, `failed`, `skipped`): the related tests with the bug (`related`), the
            failing tests run alone with the bug (`alone`) and without it (`fixed`).
    """

    candidate: Candidate
    failures: tuple[Failure, ...]
    ran: Mapping[str, Mapping[str, int]] = field(factory=dict)


@frozen
class HuntOptions:
    """Number and kinds of bugs."""

    count: int
    per_function: int
    max_failing: int
    timeout: float
    seed: int
    workers: int = 0


@frozen
class Hunt:
    """One tree, its suite, and the journal of verdicts; workers copy the tree to `scratch`.

    `controls` makes control tests, see `loraplug_swe.mutation.language.Language`; a language may have none.
    """

    tree: Path
    suite: Suite
    survey: BaselineRun
    limits: Limits
    journal: Path
    scratch: Path
    roots: tuple[str, ...] = ("src", ".")
    controls: Callable[..., Controls] | None = None
    tally: Counter[str] = field(factory=Counter)
    kinds: dict[str, Counter[str]] = field(factory=dict)

    def bugs(self, found: Found, wanted: HuntOptions, run: Run) -> list[Bug]:
        """Yield bugs in the order of the candidates, independent of the order of their verdicts."""
        known = read_journal(self.journal)
        kept: list[Bug] = []
        seen: set[str] = set()
        by_function: Counter[str] = Counter()
        stream = (one for one in found.in_order(wanted.seed) if by_function[one.group] < wanted.per_function)
        with run.progress("bugs", wanted.count) as bar, self.journal.open("a", encoding="utf-8") as file:

            def record(one: Candidate, verdict: Verdict) -> None:
                file.write(json.dumps({"key": one.key, **asdict(verdict)}) + "\n")
                file.flush()

            decided = run.workers.map(
                HuntJob(self, found, wanted), stream, count=wanted.workers, record=record,
                recall=lambda one: known.get(one.key),
            )  # fmt: skip
            with closing(decided):
                for one, verdict in decided:
                    reason = verdict.reason
                    if by_function[one.group] >= wanted.per_function:
                        continue
                    if reason == "bug":
                        reason = "like an earlier one" if verdict.signature in seen else reason
                        seen.add(verdict.signature)
                    self.tally[reason] += 1
                    self.kinds.setdefault(one.mutation.kind, Counter())[reason] += 1
                    if reason == "bug":
                        kept.append(Bug(one, verdict.failures, verdict.ran))
                        by_function[one.group] += 1
                    bar.advance(int(reason == "bug"), tried=self.tally.total())
                    if len(kept) == wanted.count:
                        break
        return kept


class HuntJob(Job[Candidate, Verdict]):
    """Tests candidates; each worker has its own sandbox and warm test process."""

    def __init__(self, hunt: Hunt, found: Found, wanted: HuntOptions) -> None:
        self.folder = hunt.tree
        self._hunt, self._texts, self._wanted = evolve(hunt, tally=Counter(), kinds={}), dict(found.texts), wanted
        self._names = list(hunt.survey.tests)
        self._steady: dict[tuple[str, ...], Outcome] = {}  # of those that share this object, the workers of one machine

    @contextmanager
    def start(self, folder: Path | None) -> Iterator[Callable[[Candidate], Verdict]]:
        """See `Job.start`."""
        tree = folder or self._hunt.tree
        scratch = self._hunt.scratch if tree == self._hunt.tree else tree.parent
        bench = _Bench(evolve(self._hunt, tree=tree, scratch=scratch))
        try:
            yield partial(self._judge, bench)
        finally:
            bench.close()

    def _judge(self, bench: _Bench, one: Candidate) -> Verdict:
        """A bug is kept if some tests fail with it, fail again alone in the same way, and pass alone without it.

        The last two are believed where the report of each test, a control test and the exit code agree.
        """
        tests = [self._names[at] for at in one.tests]
        broken = {one.path: one.mutation.apply(self._texts[one.path])}
        most = self._wanted.max_failing
        first = bench.run(broken, tests, self._seconds(tests), most + 1)
        if first.verdict != "failed":
            return Verdict({"passed": "no test notices", "time": "takes too long", "memory": "takes too much memory",
                            "processes": "starts too many processes", "disk": "writes too much",
                            "output": "prints too much", "void": _FORGED,
                            "broken": "cannot be imported", "crash": "ends the process"}[first.verdict])  # fmt: skip
        names = tuple(dict.fromkeys(failure.test for failure in first.failures))
        if len(names) > most:
            return Verdict("breaks too many tests")
        if names not in self._steady:
            self._steady[names] = bench.confirm({}, list(names), self._seconds(names), 1)
        fixed = self._steady[names]
        if fixed.verdict not in ("passed", "void"):
            return Verdict("tests depend on others")
        again = bench.confirm(broken, list(names), self._seconds(names), most + 1)
        if "void" in (fixed.verdict, again.verdict):
            return Verdict(_FORGED)
        ran = {name: _counts(run) for name, run in (("related", first), ("alone", again), ("fixed", fixed))}
        found, same = Verdict("bug", tuple(again.failures), ran), Verdict("bug", tuple(first.failures))
        return found if found.signature == same.signature else Verdict("fails differently each time")

    def _seconds(self, tests: list[str] | tuple[str, ...]) -> float:
        return self._wanted.timeout + _PATIENCE * sum(self._hunt.survey.tests.get(test, 0.0) for test in tests)


class _Bench:
    """A sandbox with a tester in it."""

    def __init__(self, hunt: Hunt) -> None:
        self.box = Sandbox(hunt.tree, hunt.limits, home=hunt.scratch, roots=hunt.roots)
        self.tester: Tester = hunt.suite.tester(self.box, hunt.survey)
        self._report: Any = getattr(self.tester, "report", None)
        self._draw = random.SystemRandom()
        self._make: Callable[..., Controls] | None = hunt.controls if self._report is not None else None
        if self._make is not None:
            made = self._make({}, list(hunt.survey.tests)[:1], self._draw)
            told = self._reported({}, [], made, 60.0, 1)
            if isinstance(told, Report) and "passed" in told.outcomes.values():
                self.close()
                raise InputError("a control test passes there, and it must fail", where="dataset.path",
                                 todo="check how its conftest.py and settings change pytest's reports")  # fmt: skip
            if isinstance(told, Outcome) or judged(told, [], made.ids).verdict != "passed":
                self._make = None  # as where the suite's own settings give its tests other names

    def run(self, files: Mapping[str, str], tests: list[str], seconds: float, stop_after: int) -> Any:
        """Run tests with these files changed, then restore the files."""
        self.box.write(files)
        try:
            return self.tester.run(tests, seconds, stop_after)
        finally:
            self.box.restore()

    def confirm(self, files: Mapping[str, str], tests: list[str], seconds: float, stop_after: int) -> Outcome:
        """Like `run`, but checks each test's report, the exit code, and a control test that must fail."""
        if self._report is None:
            done: Outcome = self.run(files, tests, seconds, stop_after)
            return done
        made = self._make({}, tests[:1], self._draw) if self._make else Controls({}, {})
        told = self._reported(files, tests, made, seconds, stop_after)
        return told if isinstance(told, Outcome) else judged(told, tests, made.ids)

    def _reported(
        self, files: Mapping[str, str], tests: list[str], made: Controls, seconds: float, stop_after: int
    ) -> Report | Outcome:
        self.box.write({**files, **made.files})
        try:
            told: Report | Outcome = self._report([*tests, *made.ids], seconds, stop_after + len(made.ids))
            return told
        finally:
            self.box.restore()

    def close(self) -> None:
        """End the processes and remove the copy."""
        self.tester.close()
        self.box.close()


def read_journal(path: Path) -> dict[str, Verdict]:
    """All complete lines of a journal; a truncated last line is dropped."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    known = {}
    for line in whole.splitlines():
        try:
            told = json.loads(line)
            known[told["key"]] = Verdict(told["reason"], tuple(map(_failure, told["failures"])), told["ran"])
        except (ValueError, KeyError, TypeError):
            raise LoraplugError("not a journal of verdicts", where=path, todo="remove the file") from None
    return known


def _counts(run: Outcome) -> dict[str, int]:
    """What a run tells of how many tests ended how; languages of other packages may not count."""
    return {how: count for how in ("passed", "failed", "skipped") if (count := getattr(run, "counts", {}).get(how))}


def _failure(told: Mapping[str, Any]) -> Failure:
    return Failure(**{**told, "trace": [tuple(place) for place in told["trace"]]})
