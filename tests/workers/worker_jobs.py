"""Jobs that tests of workers give, importable by other processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from loraplug import InputError, Job


@frozen
class Squares(Job[int, int]):
    """Squares, in this or that time; -1 is refused, and `dies` ends the process once."""

    seconds: float = 0.0
    dies: int | None = None
    mark: Path | None = None
    folder: Path | None = None

    @contextmanager
    def start(self, folder: Path | None) -> Iterator[Callable[[int], int]]:
        """See `Job.start`."""
        offset = 0 if folder is None else int((folder / "offset").read_text())

        def work(item: int) -> int:
            if item == -1:
                raise InputError("is negative", where=f"item {item}", todo="give another")
            if item == self.dies and (self.mark is None or not self.mark.exists()):
                if self.mark is not None:
                    self.mark.touch()
                os._exit(9)
            time.sleep(self.seconds)
            return item * item + offset

        yield work
