"""The validation split."""

from __future__ import annotations

import json
from typing import Any

import pytest
from datasets import Dataset, Features, Json, Value
from hypothesis import given
from hypothesis import strategies as st

from loraplug import InputError, Run
from loraplug.data.split import split
from loraplug.recipe.recipe import Validation


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
    with pytest.raises(InputError, match="all 3 rows are in one group"):
        split(rows([["r", "t"]] * 3), Validation(rows=1, group_by="repo"), Run("x"))


def test_rows_without_groups_are_split_row_by_row() -> None:
    """No group and no task_id: every row is its own group."""
    train, held = split(Dataset.from_dict({"text": list("abcdefgh")}), Validation(rows=3), Run("x"))
    assert (len(train), len(held)) == (5, 3)


@given(
    st.lists(
        st.one_of(
            st.none(), st.booleans(), st.integers(0, 3), st.sampled_from([0.0, 1.5, float("nan")]), st.text(max_size=2),
            st.lists(st.one_of(st.none(), st.integers(0, 2), st.sampled_from("ab")), max_size=3),
            st.fixed_dictionaries({"name": st.integers(0, 2)}),
        ),
        min_size=2, max_size=12,
    ),
    st.sampled_from(["auto", "group", "task", "repo", "row"]),
)  # fmt: skip
def test_groups_of_any_value(groups: list[Any], by: str) -> None:
    """Numbers, nothing, lists of them and whatever else: no row is lost, equal groups stay together."""
    made = {"text": [str(n) for n in range(len(groups))], "group": [json.dumps(group) for group in groups]}
    data = Dataset.from_dict(made, features=Features({"text": Value("string"), "group": Json()}))
    try:
        train, held = split(data, Validation(fraction=0.3, group_by=by), Run("x"))
    except InputError as error:
        assert "one group" in str(error)
        return
    assert sorted(map(int, [*train["text"], *held["text"]])) == list(range(len(groups)))
    if by == "group":
        sides = [
            {groups[int(text)] for text in side["text"] if type(groups[int(text)]) is int} for side in (train, held)
        ]
        assert not sides[0] & sides[1]


def test_numbers_group_as_they_are_equal() -> None:
    """1, 1.0 and "1" are one group, as files write the same id in each way; rows of no group stand alone."""
    data = Dataset.from_dict(
        {"text": list("abcdef"), "group": [json.dumps(value) for value in (1, 1.0, "1", None, None, None)]},
        features=Features({"text": Value("string"), "group": Json()}),
    )
    for seed in range(8):
        run = Run("x", seed)
        train, held = split(data, Validation(rows=1), run)
        assert {*"abc"} <= {*train["text"]} or {*"abc"} <= {*held["text"]}
        assert "(4 groups)" in run.reporter.lines[-1]


def test_a_row_that_lacks_a_level_is_its_own_group_there() -> None:
    """A repository without a task."""
    data = rows([["r", "1"], ["r", "1"], ["r"], ["r"]])
    run = Run("x")
    split(data, Validation(rows=1, group_by="task"), run)
    assert "(3 groups)" in run.reporter.lines[-1]


@pytest.mark.parametrize("options", [{}, {"rows": 1, "fraction": 0.5}])
def test_exactly_one_measure(options: dict[str, Any]) -> None:
    """fraction, rows or path: one of them."""
    with pytest.raises(InputError, match="exactly one"):
        Validation(**options)
