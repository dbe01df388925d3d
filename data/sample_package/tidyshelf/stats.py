"""Simple statistics over numbers and names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import sqrt


def mean(values: Sequence[float]) -> float:
    """Return the average of some values."""
    if not values:
        raise ValueError("mean of no values")
    return sum(values) / len(values)


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the average of the middle two."""
    if not values:
        raise ValueError("median of no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of all values."""
    center = mean(values)
    squares = sum((value - center) ** 2 for value in values)
    return sqrt(squares / len(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, interpolating between neighbours."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    part = position - low
    return ordered[low] + (ordered[high] - ordered[low]) * part


def histogram(values: Iterable[float], width: float) -> dict[float, int]:
    """Count values in bins of equal width, named by their lower edge."""
    counts: dict[float, int] = {}
    for value in values:
        edge = value // width * width
        counts[edge] = counts.get(edge, 0) + 1
    return dict(sorted(counts.items()))


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """Average every run of window neighbouring values."""
    if window < 1:
        raise ValueError("window must be at least 1")
    return [mean(values[end - window : end]) for end in range(window, len(values) + 1)]


def top_items(names: Iterable[str], count: int = 3) -> list[tuple[str, int]]:
    """Return the most frequent names; equal counts go by name."""
    tally = Counter(names)
    ranked = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    return ranked[:count]
