"""Commits of a repository, and the code, tests and other files that each changes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from attrs import frozen

from loraplug import InputError
from loraplug_swe.mutation.language import Language
from loraplug_swe.sandbox.checkout import find_commit, is_repository, run_git

_HOUSEKEEPING = ("setup.py", "noxfile.py", "conf.py")
_MOST_FILES = 40  # that a commit may change
_PLAIN = ("100644", "100755", "000000")


@frozen
class Commit:
    """A commit as git lists it.

    Attributes:
        parents: its parents; changes are relative to the first.
        created_at: when it was written, ISO 8601.
    """

    name: str
    parents: tuple[str, ...]
    created_at: str
    message: str


@frozen
class Fix:
    """What a commit changes, as two patches that both start from its parent.

    Attributes:
        patch: of the code; back: the reverse.
        test_patch: of the tests and the files beside them.
        code: paths that the patch changes; tests: test files that exist with the test patch.
        new_files: paths that only the patch creates; removes: whether it deletes any.
    """

    commit: Commit
    patch: str
    back: str
    test_patch: str
    code: tuple[str, ...]
    tests: tuple[str, ...]
    new_files: tuple[str, ...] = ()
    removes: bool = False


class NoFix(Exception):  # noqa: N818 - it is no error
    """A commit gives no row; carries a reason to count."""


def list_commits(source: Path, commits: str, since: str, until: str, squash: bool) -> list[Commit]:
    """The selected commits, newest first.

    Args:
        commits: a branch, tag or commit, or a range `A..B`.
        since, until: days as YYYY-MM-DD, or "".
        squash: follow first parents alone, so that a merge is one change.

    Raises:
        InputError: there is no repository, no such commit, or no history.
    """
    if not source.is_dir() or not is_repository(source):
        raise InputError("has no history: it is no git repository", where=source,
                         todo="name a clone; swe-bugs takes a folder without history")  # fmt: skip
    first, dots, last = commits.partition("..")
    tip = find_commit(source, last if dots else first, "dataset.commits")
    words = ["rev-list", "--topo-order", "--no-commit-header", "--format=%x00%H%x1f%P%x1f%aI%x1f%B"]
    words += [f"--since={since}T00:00:00"] * bool(since) + [f"--until={until}T23:59:59"] * bool(until)
    words += ["--first-parent"] * squash
    told = run_git(
        source,
        *words,
        "--end-of-options",
        tip,
        *([f"^{find_commit(source, first, 'dataset.commits')}"] if dots else []),
    )
    found = []
    for record in told.decode("utf-8", "replace").split("\0")[1:]:
        name, parents, date, message = record.split("\x1f", 3)
        found.append(Commit(name, tuple(parents.split()), date, message.strip()))
    if not any(one.parents for one in found):
        raise InputError("has no history: no commit in the range has a parent", where=source,
                         todo="fetch the whole repository (git fetch --unshallow), or widen the range")  # fmt: skip
    return found


def read_fix(source: Path, commit: Commit, tongue: Language, squash: bool) -> Fix:
    """What a commit changes.

    Raises:
        NoFix: it does not change both code and tests, or cannot be written as text.
    """
    if not commit.parents:
        raise NoFix("the first commit")
    if len(commit.parents) > 1 and not squash:
        raise NoFix("a merge")
    parent = commit.parents[0]
    try:
        changed = list(_changed(source, parent, commit.name))
    except InputError:
        raise NoFix("its objects are not here") from None
    code = [one for one in changed if kind_of(one[2], tongue) == "code"]
    tests = [one for one in changed if kind_of(one[2], tongue) == "test"]
    if not code or not tests:
        raise NoFix("changes no code" if not code else "changes no tests")
    if len(code) + len(tests) > _MOST_FILES:
        raise NoFix("changes too many files")
    if any(mode not in _PLAIN for old, new, _ in (*code, *tests) for mode in (old, new)):
        raise NoFix("changes links or submodules")
    runnable = tuple(path for _, new, path in tests if new != "000000" and _is_run(path, tongue))
    if not runnable:
        raise NoFix("changes no tests")
    mine, theirs = [path for *_, path in code], [path for *_, path in tests]
    made = tuple(path for old, _, path in code if old == "000000")
    return Fix(commit, _diff(source, parent, commit.name, mine), _diff(source, commit.name, parent, mine),
               _diff(source, parent, commit.name, theirs), tuple(mine), runnable, made,
               any(new == "000000" for _, new, _ in code))  # fmt: skip


def kind_of(path: str, tongue: Language) -> str:
    """`code`, `test`, or `other`: documents, settings and build files, which patches leave out."""
    place = PurePosixPath(path)
    if place.name in _HOUSEKEEPING or place.parts[0] in ("docs", "doc", ".github"):
        return "other"
    if tongue.is_test(path) or any(part in ("test", "tests", "testing") for part in place.parts[:-1]):
        return "test"
    return "code" if path.endswith(tuple(tongue.suffixes)) else "other"


def _is_run(path: str, tongue: Language) -> bool:
    """Whether a file holds tests, and does not only help them."""
    name = PurePosixPath(path).name
    return path.endswith(tuple(tongue.suffixes)) and name not in ("conftest.py", "__init__.py")


def _changed(source: Path, old: str, new: str) -> Iterator[tuple[str, str, str]]:
    """Mode before, mode after (000000: not there) and path of what differs; a renamed file is one gone, one new."""
    told = run_git(source, "diff-tree", "-r", "-z", "--raw", "--no-renames", "--end-of-options", old, new)
    parts = told.split(b"\0")
    for head, path in zip(parts[0:-1:2], parts[1::2], strict=True):
        was, now = head.decode().lstrip(":").split()[:2]
        yield was, now, os.fsdecode(path)


def _diff(source: Path, old: str, new: str, paths: Sequence[str]) -> str:
    """The patch of these files.

    Raises:
        NoFix: it is no text.
    """
    words = ("-r", "-p", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color",
             "--src-prefix=a/", "--dst-prefix=b/", "--end-of-options")  # fmt: skip
    try:
        text = run_git(source, "diff-tree", *words, old, new, "--", *paths).decode("utf-8")
    except InputError:
        raise NoFix("its objects are not here") from None
    except UnicodeDecodeError:
        raise NoFix("is not UTF-8") from None
    if re.search(r"^Binary files .* differ$", text, re.MULTILINE):
        raise NoFix("changes binary files")
    return text
