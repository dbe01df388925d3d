"""Numbers and names in messages."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str = "row") -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def named(names: Sequence[str], number: int) -> str:
    """Some of so many rows by name, `(row 0, row 4 …)`."""
    return f"({', '.join(names)}{' …' if number > len(names) else ''})"
