"""Page numbers, slices and labels for long lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def page_count(total: int, size: int) -> int:
    """Return how many pages a list needs; an empty list has one."""
    return max((total + size - 1) // size, 1)


def page_items(items: Sequence[T], page: int, size: int) -> Sequence[T]:
    """Return the items of one page; pages count from 1."""
    if page < 1:
        raise ValueError("pages count from 1")
    start = (page - 1) * size
    return items[start : start + size]


def page_label(page: int, size: int, total: int) -> str:
    """Describe a page, such as "11-20 of 45"."""
    if total == 0:
        return "no items"
    first = (page - 1) * size + 1
    last = min(page * size, total)
    return f"{first}-{last} of {total}"


def page_window(page: int, pages: int, around: int = 2) -> list[int]:
    """Return the page numbers to link to near the current page."""
    first = max(page - around, 1)
    last = min(page + around, pages)
    return list(range(first, last + 1))


def chunked(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield pieces of a list; the last one may be shorter."""
    if size < 1:
        raise ValueError("size must be at least 1")
    for start in range(0, len(items), size):
        yield items[start : start + size]
