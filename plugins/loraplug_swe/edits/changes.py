"""A minimal line diff of two texts, also for long files with many repeated lines.

`difflib` takes lines that come often in a long file for noise, and then calls nearly all of it changed; told not to,
it takes minutes. This is the greedy algorithm of Myers, "An O(ND) Difference Algorithm and Its Variations" (1986), on
what is left between the equal beginnings and ends: its time grows with the number of lines changed, not with the file.
"""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Iterator, Sequence

Change = tuple[int, int, int, int]
"""Lines `start` to `stop` of the old text become lines `new_start` to `new_stop` of the new one."""

_MOST = 2_000  # lines removed and added; past them `difflib` is quicker, and little is left to be told apart


def changes(before: Sequence[str], after: Sequence[str]) -> list[Change]:
    """The differences from top to bottom; no two changes are adjacent."""
    shorter = min(len(before), len(after))
    head = next((at for at in range(shorter) if before[at] != after[at]), shorter)
    tail = next((at for at in range(shorter - head) if before[-1 - at] != after[-1 - at]), shorter - head)
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    found: list[Change] = []
    at = new_at = 0
    for start, new_start, size in [*_equal_runs(old, new), (len(old), len(new), 0)]:
        if (at, new_at) != (start, new_start):
            found.append((head + at, head + start, head + new_at, head + new_start))
        at, new_at = start + size, new_start + size
    return found


def _equal_runs(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """(position in old, position in new, length) of runs of equal lines, from the top down."""
    if not old or not new:
        return
    pairs = _pairs(old, new)
    if pairs is None:
        yield from difflib.SequenceMatcher(None, old, new).get_matching_blocks()[:-1]
        return
    at = 0
    while at < len(pairs):
        size = 1
        while at + size < len(pairs) and pairs[at + size] == (pairs[at][0] + size, pairs[at][1] + size):
            size += 1
        yield (*pairs[at], size)
        at += size


def _pairs(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]] | None:
    """Positions of the lines that stay, as many as there can be; None where more than `_MOST` lines change."""
    names: dict[str, int] = {}
    a, b = ([names.setdefault(line, len(names)) for line in lines] for lines in (old, new))
    most = min(len(a) + len(b), _MOST)
    middle = most + 1
    reach = [0] * (2 * middle + 1)  # how far into `a` each diagonal has come
    trace: list[array[int]] = []
    for steps in range(most + 1):
        trace.append(array("i", reach[middle - steps - 1 : middle + steps + 2]))
        for diagonal in range(-steps, steps + 1, 2):
            at = middle + diagonal
            down = diagonal == -steps or (diagonal != steps and reach[at - 1] < reach[at + 1])
            x = reach[at + 1] if down else reach[at - 1] + 1
            y = x - diagonal
            while x < len(a) and y < len(b) and a[x] == b[y]:
                x, y = x + 1, y + 1
            reach[at] = x
            if x >= len(a) and y >= len(b):
                return _walked_back(trace, len(a), len(b))
    return None


def _walked_back(trace: list[array[int]], x: int, y: int) -> list[tuple[int, int]]:
    """The equal lines on the way that `trace` tells, from its end to its beginning and turned round."""
    pairs: list[tuple[int, int]] = []
    for steps in range(len(trace) - 1, -1, -1):
        reach, middle, diagonal = trace[steps], steps + 1, x - y
        at = middle + diagonal
        down = diagonal == -steps or (diagonal != steps and reach[at - 1] < reach[at + 1])
        from_diagonal = diagonal + 1 if down else diagonal - 1
        from_x = reach[middle + from_diagonal] if steps else 0
        from_y = from_x - from_diagonal if steps else 0
        while x > from_x and y > from_y:
            x, y = x - 1, y - 1
            pairs.append((x, y))
        x, y = from_x, from_y
    pairs.reverse()
    return pairs
