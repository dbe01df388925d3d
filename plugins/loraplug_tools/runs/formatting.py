"""How runs are put on a terminal: tables, sparklines, times."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.:-=+*#"


def width() -> int:
    """Columns of the terminal; 200 where the output goes elsewhere, so that nothing is cut that need not be."""
    return shutil.get_terminal_size((200, 24)).columns


def printable(text: str) -> str:
    """On one line, without control characters or what the output cannot encode: names come from anybody."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def clipped(text: str, most: int) -> str:
    """`text`, printable, or its beginning and three dots."""
    text = printable(text)
    return text if len(text) <= most else text[: max(0, most - 3)] + "..."[: max(0, most)]


def sparkline(points: Sequence[tuple[int, float]], size: int, low: float, high: float, last: int) -> str:
    """A line of bars over the steps 1 to `last`, each the mean of the points that fall on it; gaps stay blank.

    Args:
        points: (step, value).
        size: columns.
        low, high: values of the lowest and the highest bar.
    """
    bars = _BARS if printable(_BARS) == _BARS else _PLAIN_BARS
    size = max(1, min(size, last))
    cells: list[list[float]] = [[] for _ in range(size)]
    for step, value in points:
        cells[min(size - 1, max(0, step - 1) * size // max(1, last))].append(value)
    return "".join(_bar(sum(cell) / len(cell), low, high, bars) if cell else " " for cell in cells)


def _bar(value: float, low: float, high: float, bars: str) -> str:
    share = (value - low) / (high - low) if high > low else 0.0
    return bars[min(len(bars) - 1, int(share * len(bars)))]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> list[str]:
    """Lines of a table; columns that do not fit in `most` characters are left out from the right, the first never."""
    body = [[printable(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in body) for column in range(len(head))]
    shown = len(head)
    while shown > 1 and sum(widths[:shown]) + 2 * (shown - 1) > most:
        shown -= 1
    lines = [[cell.ljust(wide) for cell, wide in zip(row[:shown], widths, strict=False)] for row in body]
    return [clipped("  ".join(line).rstrip(), most) for line in lines]


def when(stamp: float | None) -> str:
    """Local date and time."""
    try:
        return "" if stamp is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(stamp))
    except (ValueError, OverflowError, OSError):
        return ""


def number(value: float) -> str:
    """A figure, as short as it can be read."""
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def shown(value: Any) -> str:
    """A recipe's value as TOML would have it, near enough."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    return f'"{value}"' if isinstance(value, str) else "[]" if value == [] else str(value)
