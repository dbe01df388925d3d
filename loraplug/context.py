"""What a component may use during a run: names, folders, progress and messages."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from attrs import field, frozen

from loraplug import files
from loraplug.config.secrets import redact, redacted
from loraplug.errors import LoraplugError
from loraplug.pipeline.distributed import Distributed
from loraplug.workers.workers import Workers

PUBLISHED = "published.json"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,98}")
_NOT_TO_BE_REPLACED = re.compile(
    r"README\.md|adapter_(config\.json|model.*)|config\.json|.*\.safetensors(\.index\.json)?"
)


class Progress:
    """A progress counter; this base class shows nothing."""

    def advance(self, steps: float = 1, **figures: object) -> None:
        """Count `steps` more as done and show `figures` (name to number or text) beside the bar."""


class Reporter:
    """Receives a run's messages. This class stores them; the command line's subclass shows them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        """Show a message."""
        self.lines.append(text)

    def warn(self, text: str) -> None:
        """Show a warning."""
        self.warnings.append(text)

    @contextmanager
    def progress(self, title: str, total: float | None) -> Iterator[Progress]:
        """Context manager: show progress up to `total` (None if unknown)."""
        yield Progress()


class Named(Reporter):
    """Forwards everything to another reporter, prefixed with a name."""

    def __init__(self, inner: Reporter, name: str) -> None:
        self.inner, self.name = inner, name

    def say(self, text: str) -> None:
        """Forward a message with the name."""
        self.inner.say(f"{self.name}: {text}")

    def warn(self, text: str) -> None:
        """Forward a warning with the name."""
        self.inner.warn(f"{self.name}: {text}")

    @contextmanager
    def progress(self, title: str, total: float | None) -> Iterator[Progress]:
        """Forward progress with the name."""
        with self.inner.progress(title, total) as bar:
            yield bar


@frozen
class Event:
    """What observers are told of.

    `kind` is "stage-start", "stage-end", "stage-failed", "left-out", "transformed", "metrics", "sample" or "artefact".
    """

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
    """One run of a recipe, as its components see it. `name` is a plain file name; `seed` seeds all random numbers.

    `outputs` holds adapters/, merged/, runs/ …; `cache` what can be made again: downloads, clones, dequantised bases.
    `date` is the local time at which the run was begun: a chat template that writes the date is given this one, also
    when the run goes on another day. What is said, warned of and told to observers is rid of secrets. `distributed` is
    the one place that knows of several processes. `workers` does what falls into independent items.
    """

    name: str
    seed: int = 42
    outputs: Path = field(factory=lambda: Path("outputs").absolute())
    cache: Path = field(factory=default_cache)
    reporter: Reporter = field(factory=Reporter)
    observe: Callable[[Event], None] = _no_observers
    date: datetime = field(factory=lambda: datetime.now().replace(microsecond=0))
    distributed: Distributed = field(factory=Distributed.launched)
    workers: Workers = field(factory=Workers)

    @property
    def folder(self) -> Path:
        """`outputs/runs/<name>`: state, checkpoints and logs; what going on after a kill needs."""
        return self.outputs / "runs" / self.name

    def left_out(self, reason: str, rows: int, examples: Sequence[str] = ()) -> None:
        """Report rows that the current component leaves out: the reason, how many, and the ids of some.

        `plan` shows it with the component's other figures, and events.jsonl keeps it.
        """
        if rows:
            few = list(examples[:5])
            named = f" ({', '.join(few)}{' …' if rows > len(few) else ''})" if few else ""
            self.emit("left-out", reason=reason, rows=rows, examples=few)
            self.say(f"left out {rows}: {reason}{named}")

    def say(self, text: str) -> None:
        """Show a message."""
        self.reporter.say(redact(text))

    def warn(self, text: str) -> None:
        """Show a warning."""
        self.reporter.warn(redact(text))

    def progress(self, title: str, total: float | None = None) -> AbstractContextManager[Progress]:
        """Context manager: show progress up to `total`."""
        return self.reporter.progress(title, total)

    def emit(self, kind: str, **data: Any) -> None:
        """Tell observers; `metrics` events carry `step` and figures, `artefact` events `name` and `path`."""
        self.observe(Event(kind, self.name, redacted(data)))

    def publish(self, path: Path, name: str | None = None) -> None:
        """Have a file go beside the adapter, and to where exporters push it; nothing else in the run's folder does.

        The run remembers it when it goes on after a kill. The file may be written again later.

        Args:
            path: a whole file, in the run's folder unless there is a reason.
            name: what it is called beside the adapter; by default its own name.

        Raises:
            LoraplugError: there is no such file, the name is none or belongs to a model's own files, or another file
                is published under it.
        """
        name = name or path.name
        if not path.is_file():
            raise LoraplugError("does not exist, so it cannot be published", where=path)
        if not _PLAIN_NAME.fullmatch(name) or _NOT_TO_BE_REPLACED.fullmatch(name):
            todo = "use letters, digits, dots, dashes and underscores, and not the name of a file of a model or adapter"
            raise LoraplugError(f"{name!r} is not a valid name for a published file", where=path, todo=todo)
        known, path = published(self.folder), path.absolute()
        if known.get(name, path) != path:
            raise LoraplugError(
                f"{name} is already published, from {known[name]}", where=path, todo="give another name"
            )
        table = {other: _from(self.folder.absolute(), one) for other, one in {**known, name: path}.items()}
        files.write_text(self.folder / PUBLISHED, json.dumps(table, indent=1))


def _from(folder: Path, path: Path) -> str:
    """Relative where it can be, so that outputs may be moved."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def published(folder: Path) -> dict[str, Path]:
    """Files that were published in a run's folder, name to path; those that are no longer there are left out."""
    try:
        table = json.loads((folder / PUBLISHED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = (
        {str(name): folder.absolute() / str(path) for name, path in table.items()} if isinstance(table, dict) else {}
    )
    return {name: path for name, path in found.items() if _PLAIN_NAME.fullmatch(name) and path.is_file()}
