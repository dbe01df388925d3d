"""Tests for tidyshelf.money."""

import pytest

from tidyshelf import money


def test_parse_amount_reads_plain_and_decorated_text() -> None:
    assert money.parse_amount("12.50") == 1250
    assert money.parse_amount(" $1,200 ") == 120000
    assert money.parse_amount(".75") == 75


def test_parse_amount_pads_short_fractions() -> None:
    assert money.parse_amount("3.5") == 350
    assert money.parse_amount("3.05") == 305


def test_parse_amount_keeps_the_sign() -> None:
    assert money.parse_amount("-$2.25") == -225


def test_parse_amount_refuses_other_text() -> None:
    for text in ("", "1.234", "ten"):
        with pytest.raises(ValueError):
            money.parse_amount(text)


def test_format_amount_groups_thousands() -> None:
    assert money.format_amount(123456) == "$1,234.56"
    assert money.format_amount(5, currency="€") == "€0.05"


def test_format_amount_shows_negative_amounts() -> None:
    assert money.format_amount(-250) == "-$2.50"


def test_split_evenly_loses_no_cent() -> None:
    assert money.split_evenly(100, 3) == [34, 33, 33]
    assert money.split_evenly(90, 3) == [30, 30, 30]


def test_split_evenly_needs_people() -> None:
    with pytest.raises(ValueError):
        money.split_evenly(100, 0)


def test_allocate_follows_the_weights() -> None:
    assert money.allocate(1000, [1, 3]) == [250, 750]


def test_allocate_gives_left_over_cents_to_the_first() -> None:
    assert money.allocate(100, [1, 1, 1]) == [34, 33, 33]


def test_late_fee_grows_by_the_day() -> None:
    assert money.late_fee(3) == 75
    assert money.late_fee(2, per_day=40) == 80


def test_late_fee_stops_at_the_cap() -> None:
    assert money.late_fee(90) == 1000


def test_late_fee_is_never_negative() -> None:
    assert money.late_fee(0) == 0
    assert money.late_fee(-4) == 0


def test_apply_discount_takes_a_share_off() -> None:
    assert money.apply_discount(2000, 25) == 1500


def test_apply_discount_allows_none_and_all() -> None:
    assert money.apply_discount(999, 0) == 999
    assert money.apply_discount(999, 100) == 0


def test_apply_discount_refuses_odd_percentages() -> None:
    for percent in (-1, 101):
        with pytest.raises(ValueError):
            money.apply_discount(100, percent)


def test_add_tax_rounds_half_a_cent_up() -> None:
    assert money.add_tax(1000, 20) == 1200
    assert money.add_tax(50, 7) == 54
    assert money.add_tax(10, 4) == 10
