"""From a repository's history to rows: list, verify in parallel, write."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve, frozen

from loraplug import InputError, Job, LoraplugError, Run, Workers, atomic_output, exclusive_lock, wrap_os_errors
from loraplug_swe.history.commits import Commit, Fix, NoFix, list_commits, read_fix
from loraplug_swe.history.environments import NOT_INSTALLED
from loraplug_swe.history.judge import Judge, Now, Then
from loraplug_swe.history.rows import Row, then_row, today_row, today_task
from loraplug_swe.history.verify import Verdict, as_line, as_verdict
from loraplug_swe.mutation.language import Report, language
from loraplug_swe.mutation.make import box_limits
from loraplug_swe.mutation.task import write_tasks
from loraplug_swe.sandbox.checkout import copy_commits, find_commit, repo_name
from loraplug_swe.sandbox.limits import Limits
from loraplug_swe.sandbox.scratch import scratch_folder

if TYPE_CHECKING:
    from loraplug_swe.history.source import SweHistorySource

_VERSION = 1  # of what the journal holds


def make(source: SweHistorySource, run: Run) -> Iterator[dict[str, Any]]:
    """Yield the rows of a source; the tasks are written first.

    Raises:
        InputError: there is no history, or no commit gives a row.
        LoraplugError: the tests cannot be run.
    """
    place, tongue = Path(source.path), language(source.language)
    if unfit := list(source.unfit_machines(run)):  # `loraplug data` asks no preflight
        raise InputError("; ".join(problem.message for problem in unfit), where=unfit[0].path)
    squash = source.merges == "squash"
    commits = list_commits(place, source.commits, source.since or "", source.until or "", squash)
    tip = find_commit(place, source.commits.rpartition("..")[2])
    repo = source.repo or repo_name(place)
    rows: list[Row] = []
    tally: Counter[str] = Counter()
    home = run.cache / "history"
    with scratch_folder(home) as scratch:
        journal = home / _key(source, tip) / "journal.jsonl"
        with exclusive_lock(journal.parent, f"{source.path} ({journal.parent.name})"):
            known = read_journal(journal)
            kind = Now if source.on == "today" else Then
            limits, environments = box_limits(source), journal.parent / "environments"
            with (
                kind(source, limits, scratch, environments, tip) as judge,
                run.progress("commits", len(commits)) as bar,
                journal.open("a", encoding="utf-8") as file,
                ExitStack() as stack,  # left first: the workers end before the judge does
            ):
                judge.check(known)
                job = VerifyJob(source, limits, tip, judge.clean, judge)
                if run.workers.use == "ray":
                    job = evolve(job, judge=None, folder=scratch / "repository")
                    needed = [tip, *(name for one in commits for name in (one.name, *one.parents[:1]))]
                    copy_commits(place, needed, scratch / "repository")
                gaps = judge.gaps
                for fix, (verdict, more) in stack.enter_context(closing(_decided(job, commits, known, file, run))):
                    tally[verdict.reason] += 1
                    gaps = more or gaps
                    if not isinstance(fix, str) and verdict.reason == "fix":
                        rows.append(Row(fix, verdict))
                    bar.advance(1, rows=len(rows))
                    if len(rows) == source.limit:
                        break
                if gaps:
                    run.warn(f"the code under test is not fully isolated: no separate {', '.join(gaps)}")
    _tell(source, rows, tally, run)
    out = source.tasks_out or run.folder / ("tasks" if source.on == "today" else "tasks.jsonl")
    if source.on == "today":
        tasks = [today_task(one, repo, tip, source.statement, place, tongue.name) for one in rows]
        write_tasks(tasks, out)
        made = [today_row(at, one, task) for at, (one, task) in enumerate(zip(rows, tasks, strict=True), 1)]
    else:
        made = [then_row(one, repo, source.statement, place, tongue.name) for one in rows]
        with atomic_output(out) as fresh, wrap_os_errors(out):
            fresh.write_text("".join(json.dumps(one) + "\n" for one in made), encoding="utf-8")
    run.say(f"{len(made)} tasks in {out}")
    yield from made


Looked = Fix | str
"""What a commit changes, or why it is no fix."""
Checked = tuple[Verdict, tuple[str, ...]]
"""The verdict on a fix, and the parts of the isolation that were missing."""


@frozen
class _ReadJob(Job[Commit, Looked]):
    """Reads what commits change; on this machine, by whose settings of the repository git writes patches."""

    source: SweHistorySource

    @contextmanager
    def start(self, folder: Path | None) -> Iterator[Callable[[Commit], Looked]]:  # noqa: ARG002 - see the class
        """See `Job.start`."""
        yield self._read

    def _read(self, commit: Commit) -> Looked:
        source = self.source
        try:
            return read_fix(Path(source.path), commit, language(source.language), source.merges == "squash")
        except NoFix as why:
            return str(why)


@frozen
class VerifyJob(Job[Looked, Checked]):
    """Verifies fixes.

    Attributes:
        clean: runs of the newest suite, see `Judge`.
        judge: the judge of this machine, which its workers share; None where the workers are on others.
        folder: the repository's copy for them.
    """

    source: SweHistorySource
    limits: Limits
    tip: str
    clean: tuple[Report, ...]
    judge: Judge | None
    folder: Path | None = None

    @contextmanager
    def start(self, folder: Path | None) -> Iterator[Callable[[Looked], Checked]]:
        """See `Job.start`."""
        if self.judge is not None:
            yield partial(_checked, self.judge)
            return
        assert folder is not None  # noqa: S101 - for the type checker; see the class
        source, beside = evolve(self.source, path=str(folder)), folder.parent
        kind = Now if source.on == "today" else Then
        with kind(source, self.limits, beside, beside / "environments", self.tip, self.clean) as judge:
            yield partial(_checked, judge)


def _checked(judge: Judge, one: Looked) -> Checked:
    return Verdict(one) if isinstance(one, str) else judge.judge(one), judge.gaps


def _decided(
    job: VerifyJob, commits: list[Commit], known: Mapping[str, Verdict], file: Any, run: Run
) -> Generator[tuple[Looked, Checked]]:
    """What each commit changes, and its verdict, in their order."""

    def recall(one: Looked) -> Checked | None:
        verdict = Verdict(one) if isinstance(one, str) else known.get(one.commit.name)
        return None if verdict is None else (verdict, ())

    def record(one: Looked, checked: Checked) -> None:
        if not isinstance(one, str) and checked[0].reason != NOT_INSTALLED:  # maybe the network's fault
            file.write(as_line(one.commit.name, checked[0]))
            file.flush()

    count = job.source.workers
    with closing(Workers().map(_ReadJob(job.source), commits, count=count)) as read:
        fixes = (one for _, one in read)
        with closing(run.workers.map(job, fixes, count=count, recall=recall, record=record)) as done:
            yield from done


def _tell(source: SweHistorySource, rows: list[Row], tally: Counter[str], run: Run) -> None:
    looked = tally.total()
    aside = ", ".join(f"{reason} {count}" for reason, count in tally.most_common() if reason != "fix")
    told = f"{len(rows)} rows from {looked} commits ({100 * len(rows) / looked:.1f} per 100)"
    told += f"; left out: {aside}" if aside else ""
    if not rows:
        raise InputError(f"no commit gives a row: {told}", where=source.path,
                         todo="widen commits, or check that python has the dependencies of old commits")  # fmt: skip
    run.say(told)
    if moved := sum(bool(one.fix.new_files) or one.fix.removes for one in rows):
        run.warn(f"{moved} of the fixes add or remove files; eval supports only answers that change existing files")
    if flaky := sum(one.verdict.flaky for one in rows):
        run.warn(f"{flaky} tests of these rows are left out: two runs of them differ")


def read_journal(path: Path) -> dict[str, Verdict]:
    """All complete lines of a journal by commit; a truncated last line is dropped."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    good = data[: data.rfind(b"\n") + 1]
    if len(good) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(good))
    try:
        return {told["key"]: as_verdict(told) for told in map(json.loads, good.splitlines())}
    except (ValueError, KeyError, TypeError):
        raise LoraplugError("not a journal of verdicts", where=path, todo="remove the file") from None


def _key(source: SweHistorySource, tip: str) -> str:
    """Names all that a verdict depends on beside the commit itself; that on today's tree on this one too."""
    told = [_VERSION, str(Path(source.path).resolve()), source.merges, tip if source.on == "today" else "",
            source.tests, source.roots, source.test_args, source.python or sys.prefix, sys.version,
            source.dependencies, source.language, source.timeout, asdict(source.limits), source.readable]  # fmt: skip
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:20]
