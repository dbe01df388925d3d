"""`outputs/improve/<name>`: what the rounds stand on and what they came to; all that goes on after a kill."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from loraplug import InputError, LoraplugError, atomic_output, wrap_os_errors


@frozen
class Folder:
    """The folder of all rounds.

    | file | what |
    |---|---|
    | `settings.json` | all that the rounds depend on |
    | `clock.json` | seconds by step, over all starts |
    | `data/` | rows of the first training, bugs to ask about, bugs held out |
    | `round-<n>/` | see `loraplug_swe.improve.rounds` |
    | `report.json`, `report.html` | what it came to |
    """

    place: Path

    def round(self, number: int) -> Path:
        """The folder of a round; 0 is the first training."""
        return self.place / f"round-{number}"

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Keep what the rounds depend on.

        Raises:
            InputError: the folder holds rounds of other settings.
        """
        path = self.place / "settings.json"
        wanted = json.loads(json.dumps(settings, default=str))
        if not path.exists():
            write_json(path, wanted)
            return
        known = read_json(path)
        if changed := [key for key in _leaves(known).keys() | _leaves(wanted).keys()
                       if _leaves(known).get(key) != _leaves(wanted).get(key)]:  # fmt: skip
            told = ", ".join(sorted(changed)[:6])
            todo = "choose another run_name, or begin anew with --fresh, which keeps what there is aside"
            raise InputError(f"holds rounds of another recipe (different: {told})", where=self.place, todo=todo)

    @property
    def clock(self) -> dict[str, float]:
        """Seconds of work by step, such as `round-1/ask`."""
        path = self.place / "clock.json"
        return {str(step): float(spent) for step, spent in read_json(path).items()} if path.exists() else {}

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Count the seconds of a step, also where it is stopped; those of a process that was killed are lost."""
        begun = time.monotonic()
        try:
            yield
        finally:
            spent = self.clock
            spent[step] = round(spent.get(step, 0.0) + time.monotonic() - begun, 3)
            write_json(self.place / "clock.json", spent)

    def seconds(self, number: int) -> float:
        """What a round has taken."""
        return sum(spent for step, spent in self.clock.items() if step.startswith(f"round-{number}/"))


def write_json(path: Path, value: Any) -> None:
    """Write a file of JSON whole or not at all."""
    with atomic_output(path) as fresh, wrap_os_errors(path):
        fresh.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """What such a file holds.

    Raises:
        LoraplugError: it is broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        todo = "begin anew with --fresh, which keeps what there is aside"
        raise LoraplugError(f"cannot be read ({error})", where=path, todo=todo) from None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as lines of JSON; `path` is a new file in a folder that is made whole."""
    with wrap_os_errors(path), path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What `write_rows` wrote."""
    with wrap_os_errors(path):
        return [json.loads(line) for line in path.read_bytes().splitlines()]


def _leaves(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = dict(enumerate(value)).items()
    else:
        return {place: value}
    found: dict[str, Any] = {}
    for key, item in items:
        found |= _leaves(item, f"{place}.{key}" if place else str(key))
    return found
