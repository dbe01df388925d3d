"""Parses values that data sets store as text: JSON or Python literals."""

from __future__ import annotations

import ast
import json
import warnings
from typing import Any

from loraplug.config.errors import InputError


def parsed(text: str, what: str) -> Any:
    """The value that a text of JSON, or of a Python literal, holds; `what` names it in messages.

    Raises:
        InputError: it is neither, is nested too deeply, or names a key twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=_table)
        if "\\ud" in text.lower():  # halves of surrogate pairs can be said, but are no text
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise InputError(f"{what} contains half a surrogate pair, which is not a character") from None
    except RecursionError:
        raise InputError(f"{what} is nested too deeply") from None
    except json.JSONDecodeError:
        pass
    except ValueError:  # a number of too many digits
        raise InputError(f"{what} contains a number that is too long") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _plain(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise InputError(f"{what} is text, but not JSON: {text[:60]!r}") from None


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise InputError(f'the key "{twice}" is written twice in one object')
    return made


def _plain(value: Any) -> Any:
    """A literal as JSON would hold it; ValueError where it cannot."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    raise ValueError
