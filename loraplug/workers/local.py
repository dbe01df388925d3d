"""Workers on this machine: threads, and processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from typing import Any

from loraplug.workers.crew import Worker, WorkerLostError
from loraplug.workers.job import Job


def usable_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class InThread:
    """Works in the thread that calls it."""

    def __init__(self, job: Job[Any, Any]) -> None:
        self._held = ExitStack()
        self.work: Callable[[Any], Any] = self._held.enter_context(job.start(job.folder))

    def close(self) -> None:
        """See `Worker.close`."""
        self._held.close()


_own: InThread | None = None  # of a process that is a worker


class InProcess:
    """Works in a process of its own; spawned, not forked: threads of torch and of tokenizers do not survive a fork."""

    def __init__(self, job: Job[Any, Any]) -> None:
        from multiprocessing import get_context

        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            self._call(_begin, job)
        except BaseException:
            self._pool.shutdown()
            raise

    def work(self, item: Any) -> Any:
        """See `Worker.work`."""
        return self._call(_work, item)

    def close(self) -> None:
        """See `Worker.close`."""
        try:
            self._call(_end)
        finally:
            self._pool.shutdown()

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            self._pool.shutdown()
            raise WorkerLostError(str(error)) from None


def hire_thread(job: Job[Any, Any], _: Callable[[], bool]) -> Worker:
    """See `Hire`."""
    return InThread(job)


def hire_process(job: Job[Any, Any], _: Callable[[], bool]) -> Worker:
    """See `Hire`."""
    return InProcess(job)


def _begin(job: Job[Any, Any]) -> None:
    global _own
    _own = InThread(job)


def _work(item: Any) -> Any:
    assert _own is not None  # noqa: S101 - for the type checker; `_begin` was called
    return _own.work(item)


def _end() -> None:
    if _own is not None:
        _own.close()
