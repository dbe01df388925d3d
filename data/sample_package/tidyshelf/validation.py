"""Checks for ISBNs, card numbers, e-mail addresses and records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def normalize_isbn(text: str) -> str:
    """Remove dashes and spaces from an ISBN; a final x becomes X."""
    return text.replace("-", "").replace(" ", "").upper()


def is_isbn10(text: str) -> bool:
    """Check the length and the check digit of an ISBN-10."""
    isbn = normalize_isbn(text)
    if len(isbn) != 10 or not isbn[:9].isdigit() or isbn[9] not in "0123456789X":
        return False
    digits = [10 if char == "X" else int(char) for char in isbn]
    total = sum((10 - index) * digit for index, digit in enumerate(digits))
    return total % 11 == 0


def check_digit13(digits: str) -> str:
    """Return the check digit that follows twelve digits."""
    total = sum(int(char) * (3 if index % 2 else 1) for index, char in enumerate(digits))
    return str((10 - total % 10) % 10)


def is_isbn13(text: str) -> bool:
    """Check the length, the prefix and the check digit of an ISBN-13."""
    isbn = normalize_isbn(text)
    if len(isbn) != 13 or not isbn.isdigit():
        return False
    if not isbn.startswith(("978", "979")):
        return False
    return isbn[12] == check_digit13(isbn[:12])


def isbn10_to_13(text: str) -> str:
    """Turn an ISBN-10 into the ISBN-13 of the same book."""
    if not is_isbn10(text):
        raise ValueError(f"not an ISBN-10: {text!r}")
    body = "978" + normalize_isbn(text)[:9]
    return body + check_digit13(body)


def is_card_number(text: str) -> bool:
    """Check a library card number with the Luhn rule."""
    digits = text.replace(" ", "")
    if len(digits) < 2 or not digits.isdigit():
        return False
    total = 0
    for index, char in enumerate(reversed(digits)):
        value = int(char) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_email(text: str) -> bool:
    """Check the rough shape of an e-mail address."""
    name, at, domain = text.strip().partition("@")
    if not name or not at or "@" in domain or " " in text.strip():
        return False
    return "." in domain and all(domain.split("."))


def missing_fields(record: Mapping[str, object], required: Iterable[str]) -> list[str]:
    """List required fields that are absent, None or blank text."""
    missing = []
    for field in required:
        value = record.get(field)
        if value is None or (isinstance(value, str) and not value.strip()):
            missing.append(field)
    return missing
