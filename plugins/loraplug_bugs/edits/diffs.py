"""Unified diffs, as git writes them; numbers in their headers are not believed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from loraplug_bugs.edits.shared import Applied, Finder, Refusal, Target, only_file, replaced, span_of, unfenced

HUNK = re.compile(r"@@+ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@+")


def unified_diff(path: str, old: str, new: str) -> str:
    """A patch that `git apply` takes."""
    lines = difflib.unified_diff(_lines_with_ends(old), _lines_with_ends(new), f"a/{path}", f"b/{path}")
    body = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return f"diff --git a/{path} b/{path}\n{body}"


def apply_diff(answer: str, files: Mapping[str, str], target: Target | None, find: Finder) -> Applied:
    """New texts of the files that a diff changes; raises Refusal."""
    texts, exact, path = dict(files), True, ""
    lines = unfenced(answer, HUNK).split("\n")
    at = hunks = 0
    drift: dict[str, int] = {}
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("+++ "):
            path = line[4:].split("\t")[0].strip().strip('"')
            path = path if path in files else path.removeprefix("b/")
            if path not in files:
                raise Refusal("unknown-file", f"{path} is not among the files")
        elif match := HUNK.match(line):
            path = path or only_file(files, target)
            old, new, at = _hunk(lines, at)
            near = int(match[1]) - 1 + drift.get(path, 0)
            found = span_of(texts[path], path, target, find)
            texts[path], strict = replaced(path, texts[path], old, new, found, near)
            drift[path] = drift.get(path, 0) + len(new) - len(old)
            exact, hunks = exact and strict, hunks + 1
    if not hunks:
        raise Refusal("no-edit", "no hunk beginning with @@ -line,count +line,count @@")
    return Applied(texts, exact)


def _hunk(lines: list[str], at: int) -> tuple[list[str], list[str], int]:
    """Old and new lines of the hunk that begins at `at`, and where it ends; counts in headers are not believed."""
    old: list[str] = []
    new: list[str] = []
    while at < len(lines):
        line = lines[at]
        if line[:1] not in (" ", "+", "-", "\\", "") or (line.startswith("--- ") and _header(lines, at)):
            break
        if line[:1] in (" ", "-", ""):
            old.append(line[1:])
        if line[:1] in (" ", "+", ""):
            new.append(line[1:])
        at += 1
    while old and new and not old[-1] and not new[-1] and not lines[at - 1]:  # blank lines after the diff
        old.pop(), new.pop()
        at -= 1
    if not old:
        raise Refusal("no-edit", "a hunk without a line to find its place by")
    return old, new, at


def _header(lines: list[str], at: int) -> bool:
    return at + 2 < len(lines) and lines[at + 1].startswith("+++ ") and lines[at + 2].startswith("@@ ")


def _lines_with_ends(text: str) -> list[str]:
    r"""Lines with their ends; only `\n` ends one, as for git."""
    return [line for line in re.split(r"(?<=\n)", text) if line]
