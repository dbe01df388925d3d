"""Makes tasks ready and judges answers, by several workers at once, in the order in which they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import evolve, field, frozen

from loraplug import Crew, Job, Workers
from loraplug_swe.evaluation.cases import Case, PromptOptions, Unfit, by_commit
from loraplug_swe.evaluation.generator import Completion
from loraplug_swe.evaluation.judge import Verdict, change_of, judge, usable
from loraplug_swe.evaluation.reading import Task
from loraplug_swe.evaluation.sending import SentCode, send_code
from loraplug_swe.evaluation.workroom import Workroom

_POLL = 0.2  # seconds
Given = tuple[str, int, Completion]
"""Task id, number of the sample, answer."""
Known = dict[tuple[str, str], "Future[Verdict]"]
"""Verdicts by task id and diff."""


@frozen
class _ToPrepare:
    task: Task
    asked: PromptOptions


@frozen
class _ToJudge:
    case: Case
    answer: str


@frozen
class RoomJob(Job["_ToPrepare | _ToJudge", Any]):
    """Works on tasks and answers with benches of each worker's own.

    Attributes:
        room: the workroom of this machine, which its workers share; None where the workers are on others.
        code: what a workroom is made of there.
    """

    room: Workroom | None
    code: SentCode | None = None
    folder: Path | None = None

    @contextmanager
    def start(self, folder: Path | None) -> Iterator[Callable[[_ToPrepare | _ToJudge], Any]]:
        """See `Job.start`."""
        if self.room is not None:
            try:
                yield partial(_work, self.room)
            finally:
                self.room.leave()
            return
        assert folder is not None and self.code is not None  # noqa: S101 - for the type checker; see the class
        with self.code.room(folder) as room:
            yield partial(_work, room)


def _work(room: Workroom, item: _ToPrepare | _ToJudge) -> Any:
    if isinstance(item, _ToPrepare):
        return room.prepare(item.task, item.asked), room.gaps
    return judge(room.bench(item.case.task), item.case, item.answer)


@frozen
class Judging:
    """Workers for the tasks of one evaluation; see `open_judging`."""

    _room: Workroom
    _crew: Crew[_ToPrepare | _ToJudge, Any]
    _known: Known = field(factory=dict)

    def prepared(self, tasks: Sequence[Task], asked: PromptOptions) -> Iterator[tuple[Case | Unfit, tuple[str, ...]]]:
        """Tasks made ready, grouped by commit, with the parts of the isolation that were missing."""
        for _, made in self._crew.in_order(_ToPrepare(task, asked) for task in by_commit(tasks)):
            yield made

    def usable(self, case: Case, answer: str) -> bool:
        """See `judge.usable`."""
        return usable(self._room.texts(case.task), case, answer)

    def verdicts(
        self, answers: Iterable[Given], case_of: Callable[[str], Case | Verdict]
    ) -> Iterator[tuple[str, int, Completion, Verdict]]:
        """Answers with their verdicts, in their order; they are read a little ahead. Equal changes are tested once.

        Args:
            case_of: gives the case of a task id, or the verdict where there is none.
        """
        waiting: deque[tuple[Given, Future[Verdict], bool]] = deque()
        for name, sample, said in answers:
            waiting.append(((name, sample, said), *self._begun(case_of(name), said)))
            while waiting and (waiting[0][1].done() or len(waiting) >= self._crew.ahead):
                yield _ended(*waiting.popleft())
        while waiting:
            yield _ended(*waiting.popleft())

    def _begun(self, case: Case | Verdict, said: Completion) -> tuple[Future[Verdict], bool]:
        """The verdict on an answer when it is there, and whether the answer is exact."""
        change = case if isinstance(case, Verdict) else self._change(case, said)
        if isinstance(change, Verdict):
            return _done(change), change.exact
        assert isinstance(case, Case)  # noqa: S101 - for the type checker
        key = case.task.id, change.diff
        if key not in self._known:
            self._known[key] = self._crew.submit(_ToJudge(case, said.text))
        return self._known[key], change.exact

    def _change(self, case: Case, said: Completion) -> Any:
        if said.finish == "prompt-too-long":
            return Verdict("invalid", said.finish, "the prompt leaves no room for an answer")
        return change_of(self._room.texts(case.task), case, said.text)


def _ended(given: Given, verdict: Future[Verdict], exact: bool) -> tuple[str, int, Completion, Verdict]:
    return *given, evolve(verdict.result(), exact=exact)


def _done(verdict: Verdict) -> Future[Verdict]:
    future: Future[Verdict] = Future()
    future.set_result(verdict)
    return future


@contextmanager
def open_judging(
    room: Workroom, workers: Workers, tasks: Iterable[Task], *, spare: int = 0, known: Known | None = None
) -> Iterator[Judging]:
    """Workers for these tasks: threads of this machine, or those of a cluster, to which the code is sent.

    Args:
        spare: processors of this machine that are left to others.
        known: keeps verdicts from one evaluation to the next.
    """
    with ExitStack() as stack:
        job = RoomJob(room)
        if workers.use == "ray":
            place = Path(stack.enter_context(TemporaryDirectory(prefix="sent-", dir=room.scratch))) / "code"
            job = RoomJob(None, send_code(room, tasks, place), place)
        crew = stack.enter_context(workers.crew(job, spare=spare))
        try:
            yield Judging(room, crew, {} if known is None else known)
        except BaseException:  # nobody waits for tests whose verdicts are not wanted any more
            crew.stop()
            while not crew.ends(_POLL):
                room.end_tests()
            raise
