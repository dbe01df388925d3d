"""Splits validation rows off before encoding, whole groups on one side."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loraplug_tables.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    from loraplug.context import Run
    from loraplug.recipe import Validation


def split(rows: Dataset, validation: Validation, run: Run) -> tuple[Dataset, Dataset]:
    """Draw whole groups, by the run's seed, until the asked number of rows is held out; gives (train, validation).

    Raises:
        InputError: there are too few groups to split, or no column of the asked name.
    """
    groups, label = _groups(rows, validation.group_by)
    members: dict[Any, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    if len(members) < 2:
        what = f"all {len(rows)} rows are of one group (by {label}), so none can be held out"
        raise InputError(what, where="validation.group_by", todo='write group_by = "row", or leave [validation] out')
    wanted = validation.rows or max(1, round(len(rows) * (validation.fraction or 0)))
    order = sorted(members, key=str)
    random.Random(run.seed).shuffle(order)  # noqa: S311 - a split, not a secret
    held: set[int] = set()
    for group in order[:-1]:  # at least one group is left to train on
        if len(held) < wanted:
            held |= set(members[group])
    run.say(f"validation: {len(held)} of {len(rows)} rows held out, whole groups by {label} (of {len(members)})")
    if len(held) > 2 * wanted:
        run.warn(f"validation holds {len(held)} rows where {wanted} were asked for: groups by {label} are that large")
    return rows.select(sorted(set(range(len(rows))) - held)), rows.select(sorted(held))


def _groups(rows: Dataset, by: str) -> tuple[Sequence[Any], str]:
    """A group for each row, and what to call them. A `group` column holds levels, coarse to fine."""
    columns = rows.column_names
    found = (
        [[group] if isinstance(group, str) else group or [""] for group in rows["group"]] if "group" in columns else []
    )
    levels = list(zip(*found, strict=False))
    names = ["repository", *["task"] * (len(levels) - 1)] if len(levels) > 1 else ["group"] * len(levels)
    if not levels and "task_id" in columns:
        levels, names = [tuple(rows["task_id"])], ["task"]
    if by == "auto":
        several = (pair for pair in zip(levels, names, strict=True) if len(set(pair[0])) > 1)
        return next(several, (range(len(rows)), "row"))
    if by in columns:
        return [str(value) for value in rows[by]], by
    if by in ("repo", "task") and levels:
        return levels[0 if by == "repo" else -1], by
    if by == "row":
        return range(len(rows)), by
    todo = f"columns: {', '.join(sorted(columns))}"
    raise InputError(f'no column "{by}" in the rows', where="validation.group_by", todo=todo)
