"""Threads that each lead one worker: itself, a process, or an actor on another machine."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from statistics import median
from typing import Any, Generic, Protocol

from attrs import define, field

from loraplug.errors import LoraplugError
from loraplug.workers.job import In, Out

AHEAD = 4  # items that are taken from the stream for each worker, so that none waits
_LOSSES = 3  # workers that may die over one item
_LATE = 3.0  # times the usual seconds, after which an item is given to a second worker that has nothing else to do
_LEAST_LATE = 2.0  # seconds
_REST = 1.0  # seconds before a dead worker is replaced
_KNOWN = 100  # durations that the usual one is taken from


class WorkerLostError(Exception):
    """The worker has died, and its item was not finished."""


class Worker(Protocol):
    """One that works on an item at a time. Both methods raise `WorkerLostError` where it is gone."""

    def work(self, item: Any) -> Any:
        """The result for an item."""

    def close(self) -> None:
        """Let go of what is held."""


Hire = Callable[[Callable[[], bool]], Worker]
"""Makes a worker that is ready; gives up with `WorkerLostError` once the function that it is given says so."""


@define(eq=False)
class _Entry:
    item: Any
    future: Future[Any] = field(factory=Future)
    begun: float = 0.0
    copies: int = 0
    losses: int = 0


class Crew(Generic[In, Out]):
    """Workers in threads, hired as items come. A dead one is replaced, and its item given to another.

    Args:
        size: workers at most.
        hire: makes one, in its thread.
        record: called with every item and its result as soon as it is there, by one thread at a time.
        twice: whether late items are given to a second worker; the first result counts.
    """

    def __init__(
        self, size: int, hire: Hire, record: Callable[[In, Out], None] | None = None, *, twice: bool = False
    ) -> None:
        self.size, self._hire, self._record, self._twice = size, hire, record, twice
        self._changed = threading.Condition()
        self._queue: deque[_Entry] = deque()
        self._running: list[_Entry] = []
        self._durations: deque[float] = deque(maxlen=_KNOWN)
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closing = False
        self._failed: BaseException | None = None

    def __enter__(self) -> Crew[In, Out]:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Begin nothing more; what is in work goes on."""
        with self._changed:
            self._closing = True
            self._queue.clear()
            self._changed.notify_all()

    def ends(self, seconds: float) -> bool:
        """Whether all workers end within this time, after `stop`."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def ahead(self) -> int:
        """Items that keep all workers busy: those in work, and as many that wait for each."""
        return self.size * AHEAD

    def submit(self, item: In) -> Future[Out]:
        """Have one more item worked on."""
        entry = _Entry(item)
        with self._changed:
            if self._failed is not None:
                entry.future.set_exception(self._failed)
                return entry.future
            self._queue.append(entry)
            if self._idle < len(self._queue) and len(self._threads) < self.size:
                thread = threading.Thread(target=self._lead, name=f"worker-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()
        return entry.future

    def in_order(
        self, items: Iterable[In], recall: Callable[[In], Out | None] | None = None
    ) -> Iterator[tuple[In, Out]]:
        """Every item with its result, in the order of `items`, which are read a little ahead.

        Args:
            recall: gives the result of an item that is known; None where it has to be worked on.
        """
        stream = iter(items)
        waiting: deque[tuple[In, Future[Out]]] = deque()
        while True:
            for item in islice(stream, self.ahead - len(waiting)):
                known = recall(item) if recall is not None else None
                if known is None:
                    waiting.append((item, self.submit(item)))
                else:
                    future: Future[Out] = Future()
                    future.set_result(known)
                    waiting.append((item, future))
            if not waiting:
                return
            item, future = waiting.popleft()
            yield item, future.result()

    def _stopped(self) -> bool:
        return self._closing

    def _lead(self) -> None:
        """Lead one worker: hire it, give it items, replace it when it dies."""
        worker: Worker | None = None
        try:
            while not self._closing:
                if worker is None:
                    try:
                        worker = self._hire(self._stopped)
                    except WorkerLostError:
                        time.sleep(_REST)
                        continue
                entry = self._take()
                if entry is None:
                    break
                if not self._worked(worker, entry):
                    worker = None
        except BaseException as error:  # one that cannot be made ready fails them all
            self._fail(error)
        finally:
            if worker is not None:
                try:
                    worker.close()
                except WorkerLostError:
                    pass
                except Exception as error:
                    self._fail(error)

    def _worked(self, worker: Worker, entry: _Entry) -> bool:
        """Work on an item; False where the worker is gone."""
        try:
            result = worker.work(entry.item)
        except WorkerLostError as lost:
            self._put_back(entry, lost)
            return False
        except BaseException as error:
            self._done(entry, error=error)
        else:
            self._done(entry, result)
        return True

    def _take(self) -> _Entry | None:
        """The next item, or a late one; None when there will be no more."""
        with self._changed:
            self._idle += 1
            try:
                while not self._closing:
                    entry = self._queue.popleft() if self._queue else self._late()
                    if entry is not None:
                        entry.begun = entry.begun or time.monotonic()
                        entry.copies += 1
                        if entry not in self._running:
                            self._running.append(entry)
                        return entry
                    self._changed.wait(_LEAST_LATE / 4 if self._twice else None)
                return None
            finally:
                self._idle -= 1

    def _late(self) -> _Entry | None:
        if not self._twice or not self._durations:
            return None
        limit = time.monotonic() - max(_LEAST_LATE, _LATE * median(self._durations))
        return next((one for one in self._running if one.copies == 1 and one.begun < limit), None)

    def _done(self, entry: _Entry, result: Any = None, error: BaseException | None = None) -> None:
        with self._changed:
            entry.copies -= 1
            if entry.future.done():
                return
            self._running.remove(entry)
            self._durations.append(time.monotonic() - entry.begun)
            if error is None and self._record is not None:
                try:
                    self._record(entry.item, result)
                except BaseException as failure:
                    error = failure
            if error is None:
                entry.future.set_result(result)
            else:
                entry.future.set_exception(error)

    def _put_back(self, entry: _Entry, lost: WorkerLostError) -> None:
        with self._changed:
            entry.copies -= 1
            entry.losses += 1
            if entry.future.done() or entry.copies:
                return
            self._running.remove(entry)
            if entry.losses >= _LOSSES:
                what = f"{entry.losses} workers died on one item ({lost})"
                todo = "check whether they run out of memory; use fewer workers"
                entry.future.set_exception(LoraplugError(what, where="workers", todo=todo))
                return
            entry.begun = 0.0
            self._queue.appendleft(entry)
            self._changed.notify()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failed = error
            for entry in (*self._queue, *self._running):
                if not entry.future.done():
                    entry.future.set_exception(error)
            self._queue.clear()
            self._running.clear()
