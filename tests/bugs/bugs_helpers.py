"""Code that several files of tests put bugs into."""

from __future__ import annotations

CLAMP_AND_MEAN = '''\
def clamp(value, low=0, high=10):
    """Keep a value between two bounds."""
    if value < low:
        return low
    if value > high:
        return high
    return value


def mean(values):
    """The mean, 0 of nothing."""
    if not values:
        return 0
    total = 0
    for value in values:
        total += value
    return total / len(values)
'''
