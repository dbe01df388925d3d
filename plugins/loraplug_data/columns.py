"""Which columns of a row a transform looks at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from loraplug import InputError

NAMES = frozenset({"instance_id", "task_id", "id", "group", "_origin"})
"""Columns that name a row and are no part of what it says."""


def content(row: Mapping[str, Any], columns: Collection[str] = ()) -> dict[str, Any]:
    """What a row says: the columns asked for, or all that do not name it."""
    return {key: value for key, value in row.items() if (key in columns if columns else key not in NAMES)}


def check_columns(wanted: Collection[str], columns: Collection[str], where: str) -> None:
    """InputError where one that is wanted is not there."""
    for name in wanted:
        if name not in columns:
            near = get_close_matches(name, columns, n=1)
            did = f' (did you mean "{near[0]}"?)' if near else ""
            raise InputError(f'no column "{name}" in the data{did}', where=where, todo=f"columns: {', '.join(columns)}")
