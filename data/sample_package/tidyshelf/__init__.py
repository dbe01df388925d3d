"""A small library manager: books, loans, dates and fees."""

__version__ = "0.3.0"
