"""What workers are given to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Job(ABC, Generic[In, Out]):
    """One kind of work on many items; threads share it, other processes and machines get a pickled copy.

    Its results must depend on the item alone: an item may be done again, by another worker, where one dies or is slow.

    Attributes:
        folder: a folder that the work reads; other machines get a copy of it. None where it reads none.
    """

    folder: Path | None = None

    @abstractmethod
    def start(self, folder: Path | None) -> AbstractContextManager[Callable[[In], Out]]:
        """Make one worker ready: entering gives what works on an item, leaving lets go of what is held.

        Args:
            folder: `self.folder`, or the copy of it on this machine.
        """

    @staticmethod
    def lacking() -> str | None:
        """What the machine that this is called on lacks for the work, in words; None where it has all."""
        return None
