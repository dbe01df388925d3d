"""Half-open intervals: the start belongs to one, the end does not."""

from __future__ import annotations

from collections.abc import Iterable

Interval = tuple[int, int]


def overlaps(first: Interval, second: Interval) -> bool:
    """Say whether two intervals share at least one point."""
    return first[0] < second[1] and second[0] < first[1]


def contains(interval: Interval, point: int) -> bool:
    """Say whether a point lies inside an interval."""
    return interval[0] <= point < interval[1]


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Join intervals that overlap or touch, in order of their start."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def gaps(intervals: Iterable[Interval], within: Interval) -> list[Interval]:
    """Return the parts of an interval that no other one covers."""
    free: list[Interval] = []
    position = within[0]
    for start, end in merge(intervals):
        if start > position:
            free.append((position, min(start, within[1])))
        position = max(position, end)
        if position >= within[1]:
            return free
    free.append((position, within[1]))
    return free


def total_length(intervals: Iterable[Interval]) -> int:
    """Return how many points are covered, counting each only once."""
    return sum(end - start for start, end in merge(intervals))


def clip(interval: Interval, bounds: Interval) -> Interval | None:
    """Cut an interval to its bounds; None when nothing is left."""
    start = max(interval[0], bounds[0])
    end = min(interval[1], bounds[1])
    return (start, end) if start < end else None
