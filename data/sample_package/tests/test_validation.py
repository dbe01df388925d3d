"""Tests for tidyshelf.validation."""

import pytest

from tidyshelf import validation


def test_normalize_isbn_removes_dashes_and_spaces() -> None:
    assert validation.normalize_isbn("0-8044-2957 x") == "080442957X"


def test_is_isbn10_accepts_good_numbers() -> None:
    assert validation.is_isbn10("0-306-40615-2")
    assert validation.is_isbn10("080442957x")


def test_is_isbn10_refuses_bad_numbers() -> None:
    for text in ("0306406153", "030640615", "03064X6152", ""):
        assert not validation.is_isbn10(text)


def test_check_digit13_may_be_zero() -> None:
    assert validation.check_digit13("978030640615") == "7"
    assert validation.check_digit13("978000000004") == "0"


def test_is_isbn13_accepts_both_prefixes() -> None:
    assert validation.is_isbn13("978-0-306-40615-7")
    assert validation.is_isbn13("979-10-90636-07-1")


def test_is_isbn13_refuses_bad_numbers() -> None:
    for text in ("9780306406158", "977030640615", "9770306406150", "abc"):
        assert not validation.is_isbn13(text)


def test_isbn10_to_13_makes_a_new_check_digit() -> None:
    assert validation.isbn10_to_13("0-306-40615-2") == "9780306406157"
    assert validation.isbn10_to_13("080442957X") == "9780804429573"


def test_isbn10_to_13_refuses_bad_numbers() -> None:
    with pytest.raises(ValueError):
        validation.isbn10_to_13("0306406153")


def test_is_card_number_follows_the_luhn_rule() -> None:
    assert validation.is_card_number("7992 7398 713")
    assert validation.is_card_number("1230")
    assert not validation.is_card_number("79927398710")


def test_is_card_number_refuses_other_text() -> None:
    for text in ("", "0", "12a4"):
        assert not validation.is_card_number(text)


def test_is_email_accepts_common_addresses() -> None:
    assert validation.is_email(" ann.lee@lib.test ")


def test_is_email_refuses_broken_addresses() -> None:
    for text in ("ann", "@lib.test", "ann@lib", "ann@lib..test", "ann@lib.test.", "a@b@c.test", "a b@c.test"):
        assert not validation.is_email(text)


def test_missing_fields_lists_absent_and_blank_ones() -> None:
    record = {"title": " ", "author": None, "year": 1965}
    assert validation.missing_fields(record, ["title", "author", "year", "id"]) == ["title", "author", "id"]


def test_missing_fields_accepts_zero_and_false() -> None:
    assert validation.missing_fields({"copies": 0, "lent": False}, ["copies", "lent"]) == []
