"""Validates the report of a baseline run against the tree: untrusted code could have written it."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import evolve

from loraplug import LoraplugError
from loraplug_swe.mutation.language import BaselineRun

_OUTCOMES = {"passed", "failed", "skipped"}
_TODO = "check how the tests, or a conftest.py, change the process that they run in"


def checked(survey: BaselineRun, tree: Path, where: object) -> BaselineRun:
    """The survey, limited to regular files of the tree and to tests that it names.

    A path from inside is read on the host later: one that leads out, also by a symbolic link of the tree, would put a
    file of this machine into a row. Files that the tests have made are left out, as the tree does not have them.

    Raises:
        LoraplugError: a path leads out of the tree, or a line names an unknown test.
    """
    files = regular_files(tree)
    for path in survey.lines.keys() - files:
        if not _is_plain(path) or os.path.lexists(tree / path):
            raise LoraplugError(f"the coverage report names code that is not in the tree ({path[:200]!r})", where=where,
                                todo=_TODO)  # fmt: skip
    survey = evolve(survey, lines={path: lines for path, lines in survey.lines.items() if path in files})
    tests = range(-1, len(survey.tests))
    for path, lines in survey.lines.items():
        if any(test not in tests for run_by in lines.values() for test in run_by):
            raise LoraplugError(f"the coverage report of {path} names tests that do not exist", where=where, todo=_TODO)
    return survey


def _is_plain(path: str) -> bool:
    """Whether a path can only mean something below the folder it starts from."""
    parts = PurePosixPath(path).parts
    return path == "/".join(parts) and ".." not in parts and not re.search(r"^/|^[A-Za-z]:|[\\\0]", path)


def regular_files(tree: Path) -> set[str]:
    """Relative POSIX paths of the regular files of a tree; symbolic links are not followed."""
    found = set()
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            if stat.S_ISREG(path.lstat().st_mode):
                found.add(path.relative_to(tree).as_posix())
    return found


def checked_report(told: Any, where: object) -> Mapping[str, Any]:
    """Check the form of a report of the whole suite.

    Raises:
        LoraplugError: it has another form.
    """
    try:
        return {
            "code": int(told["code"]),
            "outcomes": {_text(test): _one_of(how, _OUTCOMES) for test, how in told["outcomes"].items()},
            "seconds": {_text(test): _seconds(spent) for test, spent in told["seconds"].items()},
            "lines": {
                _text(path): {int(line): [int(test) for test in tests] for line, tests in by_line.items()}
                for path, by_line in told.get("lines", {}).items()
            },
            "modules": [_text(name) for name in told["modules"]],
            "broken": [_text(one) for one in told["broken"]],
            "failures": [{name: str(one[name]) for name in ("test", "error", "message")} for one in told["failures"]],
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise LoraplugError("the report of the tests cannot be read", where=where, todo=_TODO) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _one_of(value: Any, known: set[str]) -> str:
    if value not in known:
        raise ValueError("not known")
    return str(value)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError("no seconds")
    return float(value)
