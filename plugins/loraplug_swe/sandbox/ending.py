"""Ends the processes of a sandbox."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

_GRACE = 10.0  # seconds in which a jail that is told to end everything inside has to be gone


def end(process: subprocess.Popen[bytes]) -> None:
    """End a jail with all that runs in it, or a process that leads a session with all of its group.

    When this returns, nothing runs inside any more: the jail waits for that before it ends itself.
    """
    if process.poll() is None and sys.platform != "win32":
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, and left no one behind
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_jail(number: int, report: str) -> None:
    """End a jail by its process number, if it still is this box's."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(number)
        try:
            if report.encode() in Path(f"/proc/{number}/cmdline").read_bytes():
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                _wait(handle)
        finally:
            os.close(handle)


def _wait(handle: int) -> None:
    import select

    select.select([handle], [], [], _GRACE)


def shell_code(returncode: int) -> int:
    """As shells give it: 128 and the signal's number where one ended the process."""
    return returncode if returncode >= 0 else 128 - returncode
