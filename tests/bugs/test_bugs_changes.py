"""Diffs we write: as few lines as git finds, right to the letter, and quick on long files that repeat themselves."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loraplug_swe.edits import apply, render, unified_diff
from loraplug_swe.edits.changes import changes

LINES = st.lists(st.sampled_from(["", "}", "    return x", "a", "b", "c"]), max_size=14)


def changed(patch: str) -> tuple[int, int]:
    """Lines removed and added."""
    body = patch.splitlines()[3:]
    return sum(line.startswith("-") for line in body), sum(line.startswith("+") for line in body)


def repetitive(lines: int) -> list[str]:
    """A file in which a few lines come again and again, as in tables and generated code."""
    return [text for at in range(lines // 4) for text in ("    {", f'        "n": {at},', "    },", "")]


@pytest.mark.parametrize("lines", [400, 20_000])
@pytest.mark.parametrize("apart", [False, True])
def test_one_word_changed_is_one_line_changed(lines: int, apart: bool) -> None:
    """In long files of few different lines, one change or one at each end; at most a second for 20,000."""
    for before in (repetitive(lines), ["    pass"] * lines, ["a", "b"] * (lines // 2)):
        after = list(before)
        after[lines // 3] += "  # here"
        if apart:
            after[5] += "  # and here"
            del after[-9]
        old, new = "\n".join(before) + "\n", "\n".join(after) + "\n"
        begun = time.perf_counter()
        patch = unified_diff("x.py", old, new)
        assert time.perf_counter() - begun < 1.0
        assert changed(patch) == ((3, 2) if apart else (1, 1))
        assert len(patch.splitlines()) <= (3 + 9 * 3 if apart else 3 + 9)


def test_a_file_written_anew_takes_seconds_not_minutes() -> None:
    """More changes than are told apart line by line."""
    dice = random.Random(3)
    before, after = ([dice.choice("abcdefgh") for _ in range(20_000)] for _ in range(2))
    begun = time.perf_counter()
    found = changes(before, after)
    assert time.perf_counter() - begun < 20
    put = list(before)
    for start, stop, new_start, new_stop in reversed(found):
        put[start:stop] = after[new_start:new_stop]
    assert put == after


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, LINES, st.booleans(), st.booleans())
def test_diffs_apply_and_are_as_short_as_gits(
    tmp_path: Path, before: list[str], after: list[str], old_end: bool, new_end: bool
) -> None:
    """`git apply` makes the new file of the old one; `git diff --minimal` changes as many lines."""
    old, new = ("\n".join(lines) + "\n" * end for lines, end in ((before, old_end), (after, new_end)))
    if old == new:
        return
    (tmp_path / "x").write_text(old, newline="")
    (tmp_path / "y").write_text(new, newline="")
    patch = unified_diff("x", old, new)
    subprocess.run(["git", "apply", "-"], input=patch.encode(), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "x").read_text() == new
    (tmp_path / "x").write_text(old, newline="")
    git = subprocess.run(
        ["git", "diff", "--no-index", "--minimal", "--numstat", "x", "y"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    added, removed = git.stdout.split()[:2]
    assert changed(patch) == (int(removed), int(added))


@pytest.mark.parametrize("form", ["diff", "search-replace", "lines"])
def test_every_format_is_short_in_a_long_file(form: str) -> None:
    """One word in a function of 3,000 lines alike: a short answer that leads to the new text."""
    lines = ["def f(x):", *["    x += 1"] * 1_500, "    x -= 2", *["    x += 1"] * 1_500, "    return x"]
    old = "\n".join(lines) + "\n"
    new = old.replace("x -= 2", "x -= 3")
    begun = time.perf_counter()
    answer = render("x.py", old, new, form, target=("x.py", "f"))
    assert time.perf_counter() - begun < 10
    assert answer.count("\n") < 14
    done = apply(answer, {"x.py": old}, form, ("x.py", "f"))
    assert done.files == {"x.py": new}
