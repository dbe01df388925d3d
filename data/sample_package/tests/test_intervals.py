"""Tests for tidyshelf.intervals."""

from tidyshelf import intervals


def test_overlaps_needs_a_shared_point() -> None:
    assert intervals.overlaps((1, 5), (4, 8))
    assert intervals.overlaps((1, 9), (3, 4))
    assert not intervals.overlaps((1, 3), (6, 8))


def test_overlaps_is_false_for_neighbours() -> None:
    assert not intervals.overlaps((1, 3), (3, 5))
    assert not intervals.overlaps((3, 5), (1, 3))


def test_contains_the_start_but_not_the_end() -> None:
    assert intervals.contains((2, 4), 2)
    assert not intervals.contains((2, 4), 4)


def test_merge_joins_overlapping_and_touching() -> None:
    assert intervals.merge([(5, 7), (1, 3), (3, 4)]) == [(1, 4), (5, 7)]


def test_merge_keeps_the_longer_end() -> None:
    assert intervals.merge([(1, 10), (2, 3)]) == [(1, 10)]


def test_gaps_lie_between_intervals() -> None:
    assert intervals.gaps([(2, 4), (6, 8)], (0, 10)) == [(0, 2), (4, 6), (8, 10)]


def test_gaps_stay_inside_the_limits() -> None:
    assert intervals.gaps([(8, 12)], (0, 5)) == [(0, 5)]
    assert intervals.gaps([(0, 9)], (2, 6)) == []


def test_total_length_counts_points_once() -> None:
    assert intervals.total_length([(0, 5), (3, 8), (10, 11)]) == 9


def test_clip_cuts_both_ends() -> None:
    assert intervals.clip((0, 10), (3, 7)) == (3, 7)


def test_clip_of_separate_intervals_is_none() -> None:
    assert intervals.clip((0, 2), (5, 9)) is None
    assert intervals.clip((0, 5), (5, 9)) is None
