"""Due dates, opening days and month arithmetic."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, timedelta

LOAN_DAYS = 21


def is_leap_year(year: int) -> bool:
    """Say whether a year has a 29th of February."""
    if year % 100 == 0:
        return year % 400 == 0
    return year % 4 == 0


def days_in_month(year: int, month: int) -> int:
    """Return the number of days in a month."""
    if month == 2:
        return 29 if is_leap_year(year) else 28
    if month in (4, 6, 9, 11):
        return 30
    return 31


def parse_date(text: str) -> date:
    """Read a date written as year-month-day."""
    parts = text.strip().split("-")
    if len(parts) != 3:
        raise ValueError(f"not a date: {text!r}")
    year, month, day = (int(part) for part in parts)
    return date(year, month, day)


def add_months(day: date, months: int) -> date:
    """Move a date by whole months, keeping inside the target month."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    last = days_in_month(year, month + 1)
    return date(year, month + 1, min(day.day, last))


def next_open_day(day: date, holidays: Collection[date] = ()) -> date:
    """Return the day itself or the first later day the library is open."""
    while day.weekday() >= 5 or day in holidays:
        day += timedelta(days=1)
    return day


def due_date(start: date, days: int = LOAN_DAYS, holidays: Collection[date] = ()) -> date:
    """Return when a loan must be back, always on an open day."""
    return next_open_day(start + timedelta(days=days), holidays)


def days_overdue(due: date, today: date) -> int:
    """Return how many days late a loan is, or 0 when it is not late."""
    return max((today - due).days, 0)


def week_start(day: date) -> date:
    """Return the Monday of the week a day is in."""
    return day - timedelta(days=day.weekday())


def date_range(first: date, last: date) -> list[date]:
    """List every day from first to last, both included."""
    count = (last - first).days + 1
    return [first + timedelta(days=offset) for offset in range(count)]


def relative_day(day: date, today: date) -> str:
    """Describe a day as seen from today."""
    distance = (day - today).days
    if distance == 0:
        return "today"
    if abs(distance) == 1:
        return "tomorrow" if distance > 0 else "yesterday"
    return f"in {distance} days" if distance > 0 else f"{-distance} days ago"
