"""Tests for tidyshelf.parsing."""

import pytest

from tidyshelf import parsing


def test_parse_bool_reads_yes_words() -> None:
    assert parsing.parse_bool(" Yes ") is True
    assert parsing.parse_bool("1") is True


def test_parse_bool_reads_no_words() -> None:
    assert parsing.parse_bool("OFF") is False
    assert parsing.parse_bool("no") is False


def test_parse_bool_refuses_other_words() -> None:
    with pytest.raises(ValueError):
        parsing.parse_bool("maybe")


def test_parse_csv_line_strips_fields() -> None:
    assert parsing.parse_csv_line("Dune , Herbert ,1965 ") == ["Dune", "Herbert", "1965"]


def test_parse_csv_line_keeps_quoted_separators() -> None:
    assert parsing.parse_csv_line('"Tolkien, J. R. R.",1937') == ["Tolkien, J. R. R.", "1937"]


def test_parse_csv_line_keeps_empty_fields() -> None:
    assert parsing.parse_csv_line("a;;b;", separator=";") == ["a", "", "b", ""]


def test_parse_ini_reads_sections() -> None:
    text = "name = main\n[ fees ]\ncap = 1000\n# a comment\nper_day=25"
    assert parsing.parse_ini(text) == {"": {"name": "main"}, "fees": {"cap": "1000", "per_day": "25"}}


def test_parse_ini_allows_equal_signs_in_values() -> None:
    assert parsing.parse_ini("query = author=le guin") == {"": {"query": "author=le guin"}}


def test_parse_duration_adds_hours_and_minutes() -> None:
    assert parsing.parse_duration("1h30m") == 90
    assert parsing.parse_duration("45M") == 45


def test_parse_duration_refuses_other_text() -> None:
    for text in ("", "90", "h", "5s"):
        with pytest.raises(ValueError):
            parsing.parse_duration(text)


def test_parse_ranges_expands_and_sorts() -> None:
    assert parsing.parse_ranges("7, 1-3") == [1, 2, 3, 7]


def test_parse_ranges_joins_overlaps() -> None:
    assert parsing.parse_ranges("2-4,3-5") == [2, 3, 4, 5]


def test_parse_search_splits_filters_and_words() -> None:
    assert parsing.parse_search("Author:Herbert Sand year:1965") == (
        {"author": "Herbert", "year": "1965"},
        ["sand"],
    )


def test_parse_search_keeps_half_filters_as_words() -> None:
    assert parsing.parse_search("Messiah: :x") == ({}, ["messiah:", ":x"])
