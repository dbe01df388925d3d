"""The thread in which a model in memory answers: what several clients ask for is computed together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define, field

from loraplug_serve.sampling import Answer, Drawing, Running, Token


class QueueFullError(Exception):
    """As many requests wait as may."""


@define(eq=False)
class Job:
    """A prompt and the answers wanted.

    Attributes:
        lane: which adapter answers.
        deliver: told of each token with the number of its answer, or of the error that ended all of them; called in
            the worker's thread.
        gone: numbers of answers that nobody waits for any more.
    """

    lane: str
    ids: Sequence[int]
    drawing: Drawing
    samples: int
    top: int
    deliver: Callable[[int, Token | BaseException], None]
    gone: set[int] = field(factory=set)
    answers: list[Answer] = field(factory=list, init=False)

    def cancel(self) -> None:
        """Give all answers up; those under way end before their next token."""
        self.gone.update(range(self.samples))


@define(eq=False)
class Worker:
    """Computes jobs of one base model, with or without its adapters, in a thread of its own.

    Jobs for one adapter are computed together, those for different ones token by token in turn.

    Attributes:
        lanes: what is under way, by adapter.
        batch: answers under way at once.
        queue: jobs that may wait.
    """

    lanes: Mapping[str, Running]
    batch: int = 16
    queue: int = 64
    _waiting: deque[Job] = field(factory=deque, init=False)
    _changed: threading.Condition = field(factory=threading.Condition, init=False)
    _jobs: dict[int, Job] = field(factory=dict, init=False)
    _closed: bool = field(default=False, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Begin to work."""
        self._thread = threading.Thread(target=self._work, name="loraplug-sampler", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give everything up, and wait for the thread's end: a token at most."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(60)

    def submit(self, job: Job) -> None:
        """Have a job done.

        Raises:
            QueueFullError: too many wait already.
        """
        with self._changed:
            if len(self._waiting) >= self.queue:
                raise QueueFullError
            self._waiting.append(job)
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers under way."""
        return sum(len(lane) for lane in self.lanes.values())

    def _work(self) -> None:
        while True:
            idle = self.running == 0
            with self._changed:
                while idle and not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    break
            while (job := self._next()) is not None:
                self._begin(job)
                if not idle:  # those under way say a token before the next prompt is read
                    break
            for lane in self.lanes.values():
                if len(lane):
                    self._step(lane)
        for job in {id(job): job for job in (*self._jobs.values(), *self._waiting)}.values():
            job.deliver(0, RuntimeError("the server is shutting down"))

    def _next(self) -> Job | None:
        with self._changed:
            while self._waiting:
                job, under_way = self._waiting[0], self.running
                if len(job.gone) < job.samples and under_way and under_way + job.samples > self.batch:
                    return None
                self._waiting.popleft()
                if len(job.gone) < job.samples:
                    return job
        return None

    def _begin(self, job: Job) -> None:
        try:
            job.answers = self.lanes[job.lane].join(job.ids, job.drawing, range(job.samples), job.top)
        except Exception as error:  # a model of anybody's may raise anything; the others go on
            job.deliver(0, error)
            return
        self._jobs |= {id(one): job for one in job.answers}

    def _step(self, lane: Running) -> None:
        gone = [
            one for job in set(self._jobs.values()) for one in job.answers if one.sample in job.gone and not one.finish
        ]
        try:
            lane.leave(gone)
            said: Sequence[tuple[Answer, Token]] = lane.step() if len(lane) else ()
        except Exception as error:  # as above: whoever asked is told, and the next request is answered
            lost = {id(job): job for job in self._jobs.values() if self.lanes[job.lane] is lane}
            lane.clear()
            for job in lost.values():
                self._forget(job.answers)
                job.deliver(0, error)
            return
        self._forget(gone)
        for answer, token in said:
            self._jobs[id(answer)].deliver(answer.sample, token)
            if token.finish:
                self._forget([answer])

    def _forget(self, answers: Sequence[Answer]) -> None:
        for one in answers:
            self._jobs.pop(id(one), None)


def failure(error: BaseException) -> str:
    """What to tell of an error in the worker, in one line."""
    text: Any = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
