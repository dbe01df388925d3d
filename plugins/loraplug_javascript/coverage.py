"""Line coverage per test, from `node-scripts/coverage.mjs` and istanbul's JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loraplug import LoraplugError
from loraplug_javascript.environment import MODULES

Lines = dict[str, dict[int, list[str]]]
"""For every file (relative path) and line from 1, ids of the tests that run it; "" stands for what runs outside."""


def lines_by_test(files: Mapping[str, str], tree: Path) -> Lines:
    """Line coverage per test from the files `coverage-*.json` of a report.

    Raises:
        LoraplugError: the files have another format.
    """
    found: Lines = {}
    try:
        for name, text in files.items():
            if not name.startswith("coverage-"):
                continue
            told = json.loads(text)
            file = _relative(str(told["file"]), tree)
            for path, by_line in told["lines"].items():
                into = found.setdefault(str(path), {})
                for line, tests in by_line.items():
                    into.setdefault(int(line), []).extend(f"{file}::{test}" if test else "" for test in tests)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LoraplugError("the coverage report of the tests cannot be read", where=tree) from None
    return found


def lines_by_file(outside: str, inside: str, tree: Path) -> dict[str, dict[int, bool]]:
    """Lines that a test file runs, and whether they also run without its tests.

    Args:
        outside, inside: istanbul's `coverage-final.json` of a run without any test, and of one with all of them.

    Raises:
        LoraplugError: the files have another format.
    """
    try:
        without, told = (
            {_relative(str(path), tree): _counts(one) for path, one in json.loads(text).items()}
            for text in (outside, inside)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LoraplugError("the coverage report of the tests cannot be read", where=tree) from None
    return {
        path: {line: before > 0 for line, count in counts.items()
               if (before := without.get(path, {}).get(line, 0)) or count}
        for path, counts in told.items()
        if not path.startswith("/") and MODULES not in path.split("/")
    }  # fmt: skip


def _counts(told: Mapping[str, Any]) -> dict[int, int]:
    """How often the innermost statement of each line, or the head of a function on it, ran."""
    found: dict[int, int] = {}
    places = [(place["start"], place["end"], told["s"][key]) for key, place in told["statementMap"].items()]
    for start, end, count in sorted(places, key=lambda one: -_size(one[0], one[1])):
        found |= dict.fromkeys(range(int(start["line"]), int(end["line"]) + 1), int(count))
    for key, function in told["fnMap"].items():
        first, last = int(function["decl"]["start"]["line"]), int(function["loc"]["start"]["line"])
        if first != int(function["loc"]["end"]["line"]):  # else its one statement is on the line
            found |= dict.fromkeys(range(first, last + 1), int(told["f"][key]))
    return found


def _size(start: Mapping[str, Any], end: Mapping[str, Any]) -> float:
    rows = int(end["line"]) - int(start["line"])
    columns = int(end.get("column") or 0) - int(start.get("column") or 0)
    return rows * 100_000.0 + columns


def _relative(path: str, tree: Path) -> str:
    return path.removeprefix(f"{tree}/")
