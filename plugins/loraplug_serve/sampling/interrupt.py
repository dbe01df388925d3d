"""Ctrl-C between two tokens, never within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_after() -> Iterator[None]:
    """Do the body to its end before an interrupt (SIGINT) is heard.

    A KeyboardInterrupt within a forward pass would leave a cache whose layers have read different numbers of tokens,
    or a model with an attention that is not its own, and the next answer would be wrong. In threads other than the
    main one, which hear no signals, nothing changes.
    """
    before = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if not callable(before):  # ignored, or the process' default: it ends, and no one goes on with what is left
        yield
        return
    heard = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if heard:
            before(*heard[0])
