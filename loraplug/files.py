"""Atomic files and folders, content hashes, and the lock that excludes two runs of one name."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loraplug.errors import InputError, LoraplugError
from loraplug.weights import weight_files

ROOM = "free disk space, then run the same command again"
_NEXT_STEP = {errno.ENOSPC: ROOM, errno.EDQUOT: ROOM, errno.ENOENT: "check the path"}


@contextmanager
def wrap_os_errors(path: Path) -> Iterator[None]:
    """Context manager: turn an OSError about `path` or files below it into a LoraplugError."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the file system's: networks and libraries raise OSErrors of their own
            raise
        todo = _NEXT_STEP.get(error.errno, "check that the folder can be written")
        raise LoraplugError(error.strerror or str(error), where=error.filename or path, todo=todo) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_output(path) as fresh, wrap_os_errors(path):
        fresh.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def atomic_output(place: Path) -> Iterator[Path]:
    """A path beside `place` to make a file or folder at; renamed to `place` when the block ends well, else removed.

    What was at `place` stays whole until then; `recover` brings it back after a kill between the two renames.
    """
    fresh, old = place.with_name(f".{place.name}.new"), _old(place)
    with wrap_os_errors(place):
        recover(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        remove(fresh)
    try:
        yield fresh
        with wrap_os_errors(place):
            if place.is_dir():  # a file is replaced in one step
                remove(old)
                place.rename(old)
            if fresh.exists():
                fresh.replace(place)
    finally:
        remove(fresh)
    remove(old)


def _old(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def recover(place: Path) -> None:
    """Bring back what stood at `place` if a replacement was killed half-way."""
    if _old(place).exists() and not place.exists():
        _old(place).rename(place)


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of a run's folder; InputError when another process has it."""
    from filelock import FileLock, Timeout

    with wrap_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0.2, poll_interval=0.02)  # `runs list` tries the lock for an instant
        except Timeout:
            todo = "wait until it ends, or choose another run_name"
            raise InputError("another run of this name is in progress", where=name, todo=todo) from None
    try:
        yield
    finally:
        lock.release()


def _unseen(index: int, line: str) -> None:  # noqa: ARG001
    return None


def hash_rows(rows: Iterable[Any], see: Callable[[int, str], None] = _unseen) -> str:
    """SHA-256 (hex) over rows as canonical JSON, one a line: the same for the same rows from whatever file format.

    `see` is shown the number and the line of each.
    """
    import hashlib
    import json

    digest = hashlib.sha256()
    for index, row in enumerate(rows):
        line = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        see(index, line)
        digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def hash_weights(folder: Path) -> str:
    """SHA-256 (hex) over config.json and the names and bytes of the safetensors files that a model is loaded from.

    What else lies in a folder of the hub's cache depends on who else has loaded from it.
    """
    import hashlib

    digest = hashlib.sha256()
    for path in [*(weight_files(folder) or sorted(folder.glob("*.safetensors"))), folder / "config.json"]:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def check_writable(folder: Path) -> None:
    """LoraplugError unless files can be made in `folder`, which is made if missing."""
    with wrap_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
