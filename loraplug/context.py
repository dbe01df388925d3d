"""What a component may see and use while it works: names, folders, and a way to speak."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from attrs import field, frozen


class Progress:
    """A running count; this one shows nothing."""

    def advance(self, steps: float = 1, **figures: object) -> None:
        """Count `steps` more as done and show `figures` (name to number or text) beside the bar."""


class Reporter:
    """Where a run's words go. This one keeps them; the command line's draws them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        """Tell something the user would want to know."""
        self.lines.append(text)

    def warn(self, text: str) -> None:
        """Tell something the user may have to act on."""
        self.warnings.append(text)

    @contextmanager
    def progress(self, title: str, total: float | None) -> Iterator[Progress]:
        """Show a count up to `total` (None where it is not known) while the context is open."""
        yield Progress()


@frozen
class Event:
    """What observers are told of; `kind` is "stage-start", "stage-end", "stage-failed", "metrics" or "artefact"."""

    kind: str
    run_name: str
    data: dict[str, Any]


def _no_observers(_: Event) -> None:
    return None


def default_cache() -> Path:
    """`LORAPLUG_CACHE`, else `loraplug` in the user's cache folder (`XDG_CACHE_HOME`, `LOCALAPPDATA`, `~/.cache`)."""
    if chosen := os.environ.get("LORAPLUG_CACHE"):
        return Path(chosen).absolute()
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(home) / "loraplug"


@frozen
class Run:
    """One run of a recipe, as its components see it. `name` is a plain file name; `seed` seeds all that draws.

    `outputs` holds adapters/, merged/, runs/ …; `cache` what can be made again: downloads, clones, dequantised bases.
    """

    name: str
    seed: int = 42
    outputs: Path = field(factory=lambda: Path("outputs").absolute())
    cache: Path = field(factory=default_cache)
    reporter: Reporter = field(factory=Reporter)
    observe: Callable[[Event], None] = _no_observers

    @property
    def folder(self) -> Path:
        """`outputs/runs/<name>`: state, checkpoints and logs; what going on after a kill needs."""
        return self.outputs / "runs" / self.name

    def say(self, text: str) -> None:
        """Tell something the user would want to know."""
        self.reporter.say(text)

    def warn(self, text: str) -> None:
        """Tell something the user may have to act on."""
        self.reporter.warn(text)

    def progress(self, title: str, total: float | None = None) -> AbstractContextManager[Progress]:
        """Show a count up to `total` while the context is open."""
        return self.reporter.progress(title, total)

    def emit(self, kind: str, **data: Any) -> None:
        """Tell observers; `metrics` events carry `step` and figures, `artefact` events `name` and `path`."""
        self.observe(Event(kind, self.name, data))
