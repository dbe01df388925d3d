"""Splits validation rows off before encoding, whole groups on one side."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loraplug.errors import InputError

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
        raise InputError(
            f"all {len(rows)} rows are of one group (by {label}), so none can be held out",
            where="validation.group_by",
            todo='write group_by = "task" or "row", or leave [validation] out',
        )
    wanted = validation.rows or max(1, round(len(rows) * (validation.fraction or 0)))
    order = sorted(members, key=str)
    random.Random(run.seed).shuffle(order)  # noqa: S311 - a split, not a secret
    held: list[int] = []
    for group in order[:-1]:  # at least one group is left to train on
        if len(held) < wanted:
            held += members[group]
    kept = sorted(set(range(len(rows))) - set(held))
    run.say(f"validation: {len(held)} of {len(rows)} rows held out, whole groups by {label} (of {len(members)})")
    if len(held) > 2 * wanted:
        run.warn(f"validation holds {len(held)} rows where {wanted} were asked for: groups by {label} are that large")
    return rows.select(kept), rows.select(sorted(held))


def _groups(rows: Dataset, by: str) -> tuple[Sequence[Any], str]:
    columns = set(rows.column_names)
    levels = list(zip(*(_levels(group) for group in rows["group"]), strict=False)) if "group" in columns else []
    if by == "auto":
        for level in levels:
            if len(set(level)) > 1:
                return level, "repository" if level is levels[0] and len(levels) > 1 else "task"
        by = "task" if "task_id" in columns and len(set(rows["task_id"])) > 1 else "row"
    if by == "row":
        return range(len(rows)), "row"
    if by == "repo" and levels and "repo" not in columns:
        return levels[0], "repository"
    if by == "task" and (levels or "task_id" in columns):
        return (levels[-1] if levels else rows["task_id"]), "task"
    if by in columns:
        return [str(value) for value in rows[by]], by
    raise InputError(
        f'no column "{by}" in the rows', where="validation.group_by", todo=f"columns: {', '.join(sorted(columns))}"
    )


def _levels(group: Any) -> Sequence[str]:
    return [group] if isinstance(group, str) else group or [""]
