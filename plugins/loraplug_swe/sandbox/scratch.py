"""Folders to work in, of which a killed process leaves nothing for long."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from loraplug import wrap_os_errors

_PREFIX = "work-"


@contextlib.contextmanager
def scratch_folder(home: Path) -> Iterator[Path]:
    """A folder of its own in `home`, removed after; those whose process was killed go, too.

    Each is locked while it is in use. A process number in its name would not do: in a container the next process has
    the number of the one that was killed.

    Raises:
        LoraplugError: `home` cannot be written.
    """
    from filelock import FileLock, Timeout

    with wrap_os_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        for name in sorted({path.stem for path in home.glob(f"{_PREFIX}*")}):
            with contextlib.suppress(Timeout), FileLock(home / f"{name}.lock", timeout=0.2):
                _discard(home / name)
        own = home / f"{_PREFIX}{uuid.uuid4().hex}"
        lock = FileLock(own.with_suffix(".lock"))
        lock.acquire()
        own.mkdir()
    try:
        yield own
    finally:
        _discard(own)
        lock.release()


def _discard(folder: Path) -> None:
    """Remove the folder, then its lock, which tells the next process of a folder that could not be removed."""
    for wait in (0.0, 0.1, 0.3, 1.0):  # what was tested may be ending, and write until it has
        time.sleep(wait)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                folder.with_suffix(".lock").unlink(missing_ok=True)
            return
