"""Amounts of money, kept as whole cents."""

from __future__ import annotations


def parse_amount(text: str) -> int:
    """Turn text such as "$1,200.50" into cents."""
    cleaned = text.replace(",", "").replace("$", "").strip()
    negative = cleaned.startswith("-")
    whole, _, fraction = cleaned.lstrip("-").partition(".")
    if len(fraction) > 2 or not (whole or fraction):
        raise ValueError(f"not an amount: {text!r}")
    cents = int(whole or "0") * 100 + int(fraction.ljust(2, "0"))
    return -cents if negative else cents


def format_amount(cents: int, currency: str = "$") -> str:
    """Show cents as text, with a sign and thousands separators."""
    sign = "-" if cents < 0 else ""
    whole, fraction = divmod(abs(cents), 100)
    return f"{sign}{currency}{whole:,}.{fraction:02d}"


def split_evenly(total: int, people: int) -> list[int]:
    """Split a total so that shares differ by at most one cent."""
    if people < 1:
        raise ValueError("people must be at least 1")
    share, rest = divmod(total, people)
    return [share + 1] * rest + [share] * (people - rest)


def allocate(total: int, weights: list[int]) -> list[int]:
    """Split a total by weight; left-over cents go to the first ones."""
    weight_sum = sum(weights)
    shares = [total * weight // weight_sum for weight in weights]
    for index in range(total - sum(shares)):
        shares[index] += 1
    return shares


def late_fee(days: int, per_day: int = 25, cap: int = 1000) -> int:
    """Return the fee for a number of late days, never above the cap."""
    if days <= 0:
        return 0
    return min(days * per_day, cap)


def apply_discount(cents: int, percent: int) -> int:
    """Take a percentage off a price."""
    if not 0 <= percent <= 100:
        raise ValueError("percent must be between 0 and 100")
    return cents - cents * percent // 100


def add_tax(cents: int, percent: int) -> int:
    """Add tax to a price, rounding half a cent up."""
    tax = (cents * percent + 50) // 100
    return cents + tax
