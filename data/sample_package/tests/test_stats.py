"""Tests for tidyshelf.stats."""

import pytest

from tidyshelf import stats


def test_mean_divides_by_the_count() -> None:
    assert stats.mean([1, 2, 6]) == 3


def test_mean_and_median_need_values() -> None:
    for function in (stats.mean, stats.median):
        with pytest.raises(ValueError):
            function([])


def test_median_of_an_odd_count() -> None:
    assert stats.median([9, 1, 5]) == 5


def test_median_of_an_even_count() -> None:
    assert stats.median([4, 1, 3, 2]) == 2.5


def test_spread_uses_all_values() -> None:
    assert stats.spread([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx(2.0)


def test_percentile_interpolates() -> None:
    assert stats.percentile([10, 20, 30, 40], 50) == pytest.approx(25)


def test_percentile_reaches_both_ends() -> None:
    assert stats.percentile([30, 10, 20], 0) == 10
    assert stats.percentile([30, 10, 20], 100) == 30


def test_histogram_names_bins_by_their_lower_edge() -> None:
    assert stats.histogram([12, 3, 19, 10], 10) == {0: 1, 10: 3}


def test_histogram_sorts_its_bins() -> None:
    assert list(stats.histogram([25, 5, 15], 10)) == [0, 10, 20]


def test_moving_average_covers_every_run() -> None:
    assert stats.moving_average([1, 3, 5, 7], 2) == [2, 4, 6]
    assert stats.moving_average([1, 3], 3) == []


def test_moving_average_with_a_window_of_one() -> None:
    assert stats.moving_average([1, 2], 1) == [1, 2]


def test_top_items_puts_the_most_frequent_first() -> None:
    assert stats.top_items(["b", "a", "b", "c", "b", "a"], 2) == [("b", 3), ("a", 2)]


def test_top_items_breaks_ties_by_name() -> None:
    assert stats.top_items(["y", "x"]) == [("x", 1), ("y", 1)]
