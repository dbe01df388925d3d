"""Reads a JSON Lines file that another process is writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import define, field

_BEGINNING = 256  # bytes by which a log is told from another of its name


@define
class EventLog:
    """The lines of a JSON Lines file that grows; each is parsed once, and all anew where it is another file by now."""

    path: Path
    _entries: list[dict[str, Any]] = field(factory=list, init=False)
    _offset: int = field(default=0, init=False)
    _bad: int = field(default=0, init=False)
    _beginning: bytes = field(default=b"", init=False)

    def read(self, remarks: list[str]) -> list[dict[str, Any]]:
        """The whole lines so far; the others are counted in `remarks`.

        Raises:
            OSError: the file is there and cannot be read.
        """
        if not self.path.is_file():
            self._forget()
            return []
        with self.path.open("rb") as file:
            beginning = file.read(_BEGINNING)
            if not beginning.startswith(self._beginning) or file.seek(0, 2) < self._offset:
                self._forget()
            self._beginning = beginning
            file.seek(self._offset)
            *lines, rest = file.read().split(b"\n")
        self._offset += sum(len(line) + 1 for line in lines)
        added = [(line, _entry(line)) for line in lines if line.strip()]
        self._entries += [entry for _, entry in added if entry is not None]
        self._bad += sum(entry is None for _, entry in added)
        last = _entry(rest)  # without its line feed it may be whole all the same
        bad = self._bad + bool(rest.strip() and last is None)
        found = [*self._entries, *([last] if last is not None else [])]
        if bad:
            cut = ", the last one truncated" if rest.strip() else ""
            remarks.append(f"{self.path.name}: {bad} of {len(found) + bad} lines are damaged{cut}")
        return found

    def _forget(self) -> None:
        self._entries, self._offset, self._bad, self._beginning = [], 0, 0, b""


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
