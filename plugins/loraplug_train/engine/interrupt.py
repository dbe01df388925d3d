"""SIGTERM and Ctrl-C in training: the current step is abandoned and the last completed step is checkpointed
immediately.

Python runs signal handlers between two bytecodes of the main thread, and one backward pass of a long row is a single
call that may take minutes. So a thread reads the wakeup descriptor, which the C handler writes to immediately
(https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd), and saves from there: adapters and optimizer
change only inside the optimizer step, which `boundary` guards.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SECONDS_TO_LEAVE = 4.0


class Interrupt:
    """While entered, SIGINT and SIGTERM call `save` once and end the training."""

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save
        self._boundary = threading.Lock()
        self._changing = self._broken = False
        self._signal = 0
        self._over = threading.Event()
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread gets signals
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._arrived)
        self._thread = threading.Thread(target=self._watch, name="loraplug-interrupt", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._old:
            return
        self._over.set()
        if self._changing:  # an error interrupted the optimizer step: the state in memory is inconsistent
            self._broken = True
            self._boundary.release()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._write.close()
        self._thread.join()
        self._read.close()
        if self._signal:
            _leave(self._signal)

    def begin_change(self) -> None:
        """Called before the state that `save` writes is changed: signals are deferred until `end_change`."""
        self._boundary.acquire()
        self._changing = True

    def end_change(self) -> None:
        """The state is consistent again; a deferred signal is handled now."""
        if self._changing:
            self._changing = False
            self._boundary.release()
        if self._signal:
            _leave(self._signal)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Defer signals until the block ends."""
        self.begin_change()
        try:
            yield
        finally:
            self.end_change()

    def _arrived(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signal = number
        if not self._changing:
            _leave(number)

    def _watch(self) -> None:
        while woken := self._read.recv(1):
            if woken[0] in self._old:
                with self._boundary:
                    if not self._broken:
                        self._save()
                if not self._over.wait(_SECONDS_TO_LEAVE):  # the main thread is inside one long call
                    os._exit(128 + woken[0])
                return


def _leave(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
