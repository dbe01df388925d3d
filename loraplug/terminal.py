"""A reporter on stderr: progress bars on a terminal, occasional lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from loraplug.config.secrets import redact
from loraplug.context import Progress, Reporter
from loraplug.printing import guard_libraries, printable

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS_BETWEEN_LINES = 10.0
_MOST_COUNTED = 1_000_000


class TerminalReporter(Reporter):
    """Shows messages, warnings and progress on stderr."""

    @cached_property
    def console(self) -> Console:
        """rich's, made when there is something to show."""
        from rich.console import Console

        guard_libraries()
        return Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(printable(redact(text)), markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {printable(redact(text))}", style="yellow", markup=False)

    @contextmanager
    def progress(self, title: str, total: float | None) -> Iterator[Progress]:
        if not self.console.is_terminal:
            yield _Lines(self, title, total)
            return
        from rich import progress

        named, figures = (
            progress.TextColumn(of, markup=False) for of in ("{task.description}", "{task.fields[figures]}")
        )
        columns = [named, progress.BarColumn(), progress.TaskProgressColumn(), figures, progress.TimeRemainingColumn()]
        with progress.Progress(*columns, console=self.console) as bars:
            yield _Bar(bars, bars.add_task(printable(title), total=total, figures=""))


class _Bar(Progress):
    def __init__(self, bars: Any, task: Any) -> None:
        self.bars, self.task = bars, task

    def advance(self, steps: float = 1, **figures: object) -> None:
        shown = {"figures": _figures(figures)} if figures else {}
        self.bars.update(self.task, advance=steps, **shown)


class _Lines(Progress):
    def __init__(self, reporter: Reporter, title: str, total: float | None) -> None:
        self.reporter, self.title, self.total = reporter, title, total
        self.done, self.begun = 0.0, time.monotonic()
        self.told = self.begun

    def advance(self, steps: float = 1, **figures: object) -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.told >= _SECONDS_BETWEEN_LINES or self.done == self.total:
            self.told = now
            left = (now - self.begun) / self.done * (self.total - self.done) if self.total and self.done else None
            told = " ".join(filter(None, [_count(self.done, self.total), _figures(figures)]))
            self.reporter.say(f"{self.title}: {told}" + (f", {left:.0f} s left" if left else ""))


def _count(done: float, total: float | None) -> str:
    """Things that are counted as they are; bytes and the like, of which there are many, as a share."""
    if total and (total > _MOST_COUNTED or total != int(total)):
        return f"{done / total:.0%}"
    return f"{done:.0f}" + (f"/{total:.0f}" if total else "")


def _figures(figures: dict[str, object]) -> str:
    parts = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
    return printable("  ".join(parts).replace("_", " "))
