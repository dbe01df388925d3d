"""Unified diffs, as git writes them; the line numbers in hunk headers are not trusted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from loraplug_swe.edits.changes import Change, changes
from loraplug_swe.edits.shared import Applied, Finder, Refusal, Target, only_file, replaced, span_of, unfenced

_CONTEXT = 3  # lines shown round a change
HUNK = re.compile(r"@@+ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@+")


def unified_diff(path: str, old: str, new: str) -> str:
    """A minimal patch that `git apply` accepts."""
    before, after = _lines_with_ends(old), _lines_with_ends(new)
    out = [f"diff --git a/{path} b/{path}\n"]
    for group in _grouped(changes(before, after)):
        if len(out) == 1:
            out.append(f"--- a/{path}\n+++ b/{path}\n")
        above, below = min(_CONTEXT, group[0][0]), min(_CONTEXT, len(before) - group[-1][1])
        at, stop = group[0][0] - above, group[-1][1] + below
        new_at, new_stop = group[0][2] - above, group[-1][3] + below
        out.append(f"@@ -{_range(at, stop)} +{_range(new_at, new_stop)} @@\n")
        for start, end, new_start, new_end in group:
            out += [f" {line}" for line in before[at:start]]
            out += [f"-{line}" for line in before[start:end]]
            out += [f"+{line}" for line in after[new_start:new_end]]
            at = end
        out += [f" {line}" for line in before[at:stop]]
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in out)


def _grouped(found: Sequence[Change]) -> Iterator[list[Change]]:
    """Changes whose lines round them meet, together."""
    group: list[Change] = []
    for change in found:
        if group and change[0] - group[-1][1] > 2 * _CONTEXT:
            yield group
            group = []
        group.append(change)
    if group:
        yield group


def _range(start: int, stop: int) -> str:
    """Lines from 1, as a hunk's header has them; those before which something is put in are told by the line above."""
    return f"{start + 1}" if stop - start == 1 else f"{start + (stop > start)},{stop - start}"


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
        raise Refusal("no-edit", "a hunk without a line that locates it")
    return old, new, at


def _header(lines: list[str], at: int) -> bool:
    return at + 2 < len(lines) and lines[at + 1].startswith("+++ ") and lines[at + 2].startswith("@@ ")


def _lines_with_ends(text: str) -> list[str]:
    r"""Lines with their ends; only `\n` ends one, as for git."""
    return [line for line in re.split(r"(?<=\n)", text) if line]
