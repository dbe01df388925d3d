"""Two bugs at once, of the small ones of any language."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from loraplug_swe.mutation.language import Mutation


def two_bugs(text: str, small: Sequence[Mutation]) -> Iterator[Mutation]:
    """Two bugs in statements of one function that do not touch, each small bug in at most two pairs as the first."""
    by_function: dict[str, list[Mutation]] = {}
    for one in small:
        by_function.setdefault(one.function, []).append(one)
    for function, members in by_function.items():
        draw = random.Random(function)  # noqa: S311 - a draw, not a secret
        for one in members:
            others = [two for two in members if two.start >= one.stop and two.lines[0] > one.lines[1]]
            for two in draw.sample(others, min(2, len(others))):
                between = one.replacement + text[one.stop : two.start] + two.replacement
                lines = one.lines[0], two.lines[1]
                yield Mutation("two_bugs", function, one.start, two.stop, between, lines, f"{one.note}; {two.note}")
