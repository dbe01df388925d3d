"""Intervals in recipes: a number of steps, or a duration."""

import re


def seconds_or_steps(text: int | str) -> int | float:
    """Steps (int) unchanged; `"90 s"`, `"10 min"`, `"1.5 h"` as seconds (float). ValueError for anything else."""
    if isinstance(text, int):
        if text < 1:
            raise ValueError(f"{text} is below 1")
        return text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text)
    if not match:
        raise ValueError(f'"{text}" is neither a number of steps nor a time such as "90 s", "10 min", "2 h"')
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]
