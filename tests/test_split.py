"""The validation split."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from loraplug import InputError, Run
from loraplug.recipe import Validation
from loraplug_rows.split import split


def rows(groups: list[Any], **columns: list[Any]) -> Dataset:
    return Dataset.from_dict({"text": [str(n) for n in range(len(groups))], "group": groups, **columns})


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.floats(0.01, 0.9), st.integers(0, 9))
def test_groups_stay_whole_and_no_row_is_lost(repos: list[int], fraction: float, seed: int) -> None:
    """Whatever the groups: every row on exactly one side, no group on both, both sides with rows."""
    data = rows([[f"repo-{repo}", f"task-{n}"] for n, repo in enumerate(repos)])
    train, held = split(data, Validation(fraction=fraction), Run("x", seed))
    assert sorted(map(int, [*train["text"], *held["text"]])) == list(range(len(repos)))
    assert len(train) > 0
    assert len(held) > 0
    if len(set(repos)) > 1:
        assert not {group[0] for group in train["group"]} & {group[0] for group in held["group"]}


def test_one_repository_is_split_by_task() -> None:
    """Where there is only one repository, tasks are the groups."""
    data = rows([["repo", f"task-{n // 2}"] for n in range(20)])
    train, held = split(data, Validation(fraction=0.2), Run("x"))
    assert len(held) == 4
    assert not {group[1] for group in train["group"]} & {group[1] for group in held["group"]}


def test_the_split_depends_on_the_seed_alone() -> None:
    """Same rows and seed, same split; another seed, another."""
    data = rows([[str(n)] for n in range(50)])
    first, again, other = (split(data, Validation(rows=5), Run("x", seed))[1]["text"] for seed in (1, 1, 2))
    assert list(first) == list(again)
    assert list(first) != list(other)


def test_group_by_names_a_column_or_is_refused() -> None:
    """Any column can group; a name that is none is answered with those there are."""
    data = rows([["r", str(n)] for n in range(6)], author=["a", "a", "b", "b", "c", "c"])
    _, held = split(data, Validation(rows=2, group_by="author"), Run("x"))
    assert len(set(held["author"])) == 1
    with pytest.raises(InputError, match='no column "autor"'):
        split(data, Validation(rows=2, group_by="autor"), Run("x"))


def test_one_group_cannot_be_split() -> None:
    """All rows of one repository and task: refused with the way out."""
    with pytest.raises(InputError, match="all 3 rows are of one group"):
        split(rows([["r", "t"]] * 3), Validation(rows=1, group_by="repo"), Run("x"))


def test_rows_without_groups_are_split_row_by_row() -> None:
    """No group and no task_id: every row is its own group."""
    train, held = split(Dataset.from_dict({"text": list("abcdefgh")}), Validation(rows=3), Run("x"))
    assert (len(train), len(held)) == (5, 3)


@pytest.mark.parametrize("options", [{}, {"rows": 1, "fraction": 0.5}])
def test_exactly_one_measure(options: dict[str, Any]) -> None:
    """fraction, rows or path: one of them."""
    with pytest.raises(InputError, match="exactly one"):
        Validation(**options)
