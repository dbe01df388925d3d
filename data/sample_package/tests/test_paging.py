"""Tests for tidyshelf.paging."""

import pytest

from tidyshelf import paging


def test_page_count_rounds_up() -> None:
    assert paging.page_count(20, 10) == 2
    assert paging.page_count(21, 10) == 3


def test_page_count_of_an_empty_list_is_one() -> None:
    assert paging.page_count(0, 10) == 1


def test_page_items_counts_pages_from_one() -> None:
    assert paging.page_items("abcdefg", 1, 3) == "abc"
    assert paging.page_items("abcdefg", 3, 3) == "g"


def test_page_items_refuses_page_zero() -> None:
    with pytest.raises(ValueError):
        paging.page_items("abc", 0, 3)


def test_page_label_shows_first_and_last() -> None:
    assert paging.page_label(2, 10, 45) == "11-20 of 45"


def test_page_label_stops_at_the_total() -> None:
    assert paging.page_label(5, 10, 45) == "41-45 of 45"


def test_page_label_of_an_empty_list() -> None:
    assert paging.page_label(1, 10, 0) == "no items"


def test_page_window_surrounds_the_page() -> None:
    assert paging.page_window(5, 9) == [3, 4, 5, 6, 7]


def test_page_window_stays_inside() -> None:
    assert paging.page_window(1, 9) == [1, 2, 3]
    assert paging.page_window(9, 9, around=1) == [8, 9]


def test_chunked_keeps_the_last_piece() -> None:
    assert list(paging.chunked([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]


def test_chunked_refuses_empty_pieces() -> None:
    with pytest.raises(ValueError):
        list(paging.chunked([1], 0))
