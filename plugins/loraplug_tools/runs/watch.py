"""`runs watch`: one run as lines of text, drawn again and again while it is at work.

Only the run's files are read, so it may run in any process, and may end in any way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from loraplug import RunRecord, duration, echo
from loraplug_tools.runs.formatting import clipped, printable, sparkline, width

_GONE = "its process died before the run ended: killed, stopped by Ctrl-C, or the machine went down"
_SAMPLE_LINES = 6


def picture(run: RunRecord, now: float | None = None) -> list[str]:
    """What there is to say of a run, a line each, none wider than the terminal.

    Args:
        now: seconds since 1970; the present where not given.
    """
    wide, now = width(), time.time() if now is None else now
    lines = [f"{printable(run.name)}: {_state(run)}"]
    if run.error:
        lines += [f"  {printable(line.strip())}" for line in run.error.splitlines()]
    facts = [("at work", duration(run.seconds)), *run.progress()]
    if run.status == "running" and run.changed is not None and now - run.changed >= 60:
        facts.append(("last update", f"{duration(now - run.changed)} ago"))
    lines += [f"  {name:16} {text}" for name, text in facts]
    lines += _losses(run, wide)
    lines += _sample(run)
    lines += [f"  not read: {printable(remark)}" for remark in run.remarks]
    lines += [f"\nNext: {text}" for text in _next(run)]
    return [clipped(line, wide) if not line.startswith("\n") else line for line in lines]


def one_line(run: RunRecord) -> str:
    """The same in short, for logs."""
    words = [printable(run.name), run.stage or "", *(f"{name} {text}" for name, text in run.progress())]
    return ", ".join(word for word in words if word)


def follow(read: Callable[[], RunRecord], every: float) -> RunRecord:
    """Show a run until it is not at work any more: drawn in place on a terminal, else a line where something is new.

    Args:
        read: reads the run anew.
        every: seconds between two looks.

    Returns:
        The run as it ended.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    run = read()
    if run.status == "running":
        run = _drawn(console, run, read, every) if console.is_terminal else _told(run, read, every)
    echo("\n".join(picture(run)))
    return run


def _told(run: RunRecord, read: Callable[[], RunRecord], every: float) -> RunRecord:
    said = ""
    while run.status == "running":
        if (line := one_line(run)) != said:
            echo(line)
            said = line
        time.sleep(every)
        run = read()
    return run


def _drawn(console: object, run: RunRecord, read: Callable[[], RunRecord], every: float) -> RunRecord:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    assert isinstance(console, Console)  # noqa: S101 - for the type checker; rich is not loaded with this module
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while run.status == "running":
            live.update(Text("\n".join(picture(run))), refresh=True)
            time.sleep(every)
            run = read()
    return run


def _state(run: RunRecord) -> str:
    where = f" at {printable(run.stage)}" if run.stage else ""
    if run.status == "interrupted":
        return f"interrupted{where}: {_GONE}"
    if run.status == "stopped":
        return f"stopped after {printable(run.stage or '')}, as asked"
    return f"{run.status}{where}"


def _next(run: RunRecord) -> list[str]:
    if run.status == "interrupted":
        return ["the same `loraplug run` command resumes from its last checkpoint"]
    return [f"loraplug runs show {printable(run.name)}"] if run.status == "done" else []


def _losses(run: RunRecord, wide: int) -> list[str]:
    if len(run.losses) < 2:
        return []
    values = [value for _, value in run.losses]
    last = run.losses[-1][0]
    bars = sparkline(run.losses, min(60, max(1, wide - 20)), min(values), max(values), last)
    return ["", f"  {bars}  {values[0]:.3f} to {values[-1]:.3f}"]


def _sample(run: RunRecord) -> list[str]:
    if not run.samples:
        return []
    last = run.samples[-1]
    asked, answered = (_shortened(text) for text in (last.prompt, last.answer))
    when = f"after step {last.step}" if last.step else "before training"
    return ["", "  prompt", *asked, f"  answer {when}", *answered]


def _shortened(text: str) -> Sequence[str]:
    """The last lines of a text, which are what an answer is to."""
    lines = text.strip().splitlines()
    dots = [f"    … ({len(lines) - _SAMPLE_LINES} lines)"] if len(lines) > _SAMPLE_LINES else []
    return [*dots, *(f"    {printable(line)}" for line in lines[-_SAMPLE_LINES:])]
