"""Tests for tidyshelf.dates."""

from datetime import date

import pytest

from tidyshelf import dates

FRIDAY = date(2024, 3, 1)
SATURDAY = date(2024, 3, 2)
MONDAY = date(2024, 3, 4)
TUESDAY = date(2024, 3, 5)


def test_is_leap_year_for_common_years() -> None:
    assert dates.is_leap_year(2024)
    assert not dates.is_leap_year(2023)


def test_is_leap_year_for_centuries() -> None:
    assert dates.is_leap_year(2000)
    assert not dates.is_leap_year(1900)


def test_days_in_month_for_a_whole_year() -> None:
    lengths = [dates.days_in_month(2023, month) for month in range(1, 13)]
    assert lengths == [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    assert dates.days_in_month(2024, 2) == 29


def test_parse_date_reads_year_month_day() -> None:
    assert dates.parse_date(" 2024-03-05 ") == date(2024, 3, 5)


def test_parse_date_refuses_other_text() -> None:
    for text in ("2024-03", "today", "2024-13-01"):
        with pytest.raises(ValueError):
            dates.parse_date(text)


def test_add_months_crosses_the_year() -> None:
    assert dates.add_months(date(2023, 11, 15), 3) == date(2024, 2, 15)
    assert dates.add_months(date(2024, 1, 15), -1) == date(2023, 12, 15)


def test_add_months_stays_inside_short_months() -> None:
    assert dates.add_months(date(2024, 1, 31), 1) == date(2024, 2, 29)


def test_next_open_day_keeps_working_days() -> None:
    assert dates.next_open_day(FRIDAY) == FRIDAY


def test_next_open_day_skips_the_weekend() -> None:
    assert dates.next_open_day(SATURDAY) == MONDAY


def test_next_open_day_skips_holidays() -> None:
    assert dates.next_open_day(SATURDAY, [MONDAY]) == TUESDAY
    assert dates.next_open_day(FRIDAY, {FRIDAY}) == MONDAY


def test_due_date_counts_three_weeks() -> None:
    assert dates.due_date(FRIDAY) == date(2024, 3, 22)
    assert dates.due_date(FRIDAY, days=1) == MONDAY


def test_due_date_avoids_holidays() -> None:
    assert dates.due_date(FRIDAY, holidays=[date(2024, 3, 22)]) == date(2024, 3, 25)


def test_days_overdue_counts_late_days() -> None:
    assert dates.days_overdue(FRIDAY, TUESDAY) == 4


def test_days_overdue_is_zero_in_time() -> None:
    assert dates.days_overdue(TUESDAY, FRIDAY) == 0
    assert dates.days_overdue(FRIDAY, FRIDAY) == 0


def test_week_start_is_a_monday() -> None:
    assert dates.week_start(MONDAY) == MONDAY
    assert dates.week_start(date(2024, 3, 10)) == MONDAY


def test_date_range_includes_both_ends() -> None:
    assert dates.date_range(FRIDAY, date(2024, 3, 3)) == [FRIDAY, SATURDAY, date(2024, 3, 3)]
    assert dates.date_range(FRIDAY, FRIDAY) == [FRIDAY]


def test_relative_day_names_near_days() -> None:
    assert dates.relative_day(FRIDAY, FRIDAY) == "today"
    assert dates.relative_day(SATURDAY, FRIDAY) == "tomorrow"
    assert dates.relative_day(FRIDAY, SATURDAY) == "yesterday"


def test_relative_day_counts_far_days() -> None:
    assert dates.relative_day(TUESDAY, FRIDAY) == "in 4 days"
    assert dates.relative_day(FRIDAY, TUESDAY) == "4 days ago"
