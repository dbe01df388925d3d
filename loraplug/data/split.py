"""Splits off validation rows before encoding; groups are not divided."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loraplug.config.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    from loraplug.context import Run
    from loraplug.recipe.recipe import Validation


def split(rows: Dataset, validation: Validation, run: Run) -> tuple[Dataset, Dataset]:
    """Draw whole groups, seeded by the run, until the requested number of rows is reached; returns (train, validation).

    Raises:
        InputError: there are too few groups to split, or no column of the asked name.
    """
    groups, label = _groups(rows, validation.group_by)
    members: dict[Any, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    if len(members) < 2:
        what = f"all {len(rows)} rows are in one group (by {label}), so they cannot be split"
        raise InputError(what, where="validation.group_by", todo='set group_by = "row", or remove [validation]')
    wanted = validation.rows or max(1, round(len(rows) * (validation.fraction or 0)))
    order = sorted(members, key=str)
    random.Random(run.seed).shuffle(order)  # noqa: S311 - a split, not a secret
    held: set[int] = set()
    for group in order[:-1]:  # at least one group is left to train on
        if len(held) < wanted:
            held |= set(members[group])
    run.say(
        f"validation: {len(held)} of {len(rows)} rows held out for validation: whole groups by {label} ({len(members)} "
        "groups)"
    )
    if len(held) > 2 * wanted:
        run.warn(f"validation has {len(held)} rows, not the {wanted} requested, as groups by {label} are not divided")
    return rows.select(sorted(set(range(len(rows))) - held)), rows.select(sorted(held))


def _groups(rows: Dataset, by: str) -> tuple[Sequence[Any], str]:
    """A group for each row, and what to call them. A `group` column holds levels, coarse to fine, or one value."""
    columns = rows.column_names
    levels = _levels(list(rows["group"])) if "group" in columns else []
    names = ["repository", *["task"] * (len(levels) - 1)] if len(levels) > 1 else ["group"] * len(levels)
    if not levels and "task_id" in columns:
        levels, names = _levels(list(rows["task_id"])), ["task"]
    if by == "auto":
        several = (pair for pair in zip(levels, names, strict=True) if len(set(pair[0])) > 1)
        return next(several, (range(len(rows)), "row"))
    if by in columns:
        return [_name(value, index) for index, value in enumerate(rows[by])], by
    if by in ("repo", "task") and levels:
        return levels[0 if by == "repo" else -1], by
    if by == "row":
        return range(len(rows)), by
    todo = f"columns: {', '.join(sorted(columns))}"
    raise InputError(f'no column "{by}" in the rows', where="validation.group_by", todo=todo)


def _levels(values: list[Any]) -> list[list[Any]]:
    """The groups of every row at each level; a row that lacks a level is a group of its own there."""
    lists = [value if isinstance(value, list | tuple) else [value] for value in values]
    depth = max(map(len, lists), default=0)
    return [
        [_name(value[level] if level < len(value) else None, index) for index, value in enumerate(lists)]
        for level in range(depth)
    ]


def _name(value: Any, index: int) -> Any:
    """A group's name: numbers that are equal are one group, as are a number and its text; nothing is a row's own."""
    if value is None or value == "" or value != value:  # NaN is what pandas writes for nothing
        return ("row", index)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)
