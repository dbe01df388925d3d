"""Reverses a patch as text."""

from __future__ import annotations

import re

from loraplug_swe.patches.unified import Hunk, Section, parse_patch, quote_path
from loraplug_swe.tasks.rejects import Reject

_INDEX = re.compile(r"index ([0-9a-f]+)\.\.([0-9a-f]+)(.*)", re.DOTALL)


def reverse_patch(text: str) -> str:
    """The patch that reverses `text`: sections in reverse order, each reversed.

    `git apply -R` keeps the order, which fails where one file comes several times.

    Raises:
        Reject: `corrupt-patch`, or `irreversible` for copies and binary parts.
    """
    out: list[str] = []
    for section in reversed(parse_patch(text)):
        out += _reversed(section).lines()
    return "\n".join(out) + "\n" if out else ""


def _reversed(section: Section) -> Section:
    if section.binary:
        raise Reject("irreversible", f"{section.path}: a binary patch cannot be reversed")
    old, new = section.new, section.old
    header: list[str] = []
    modes: dict[str, str] = {}
    for line in section.header:
        if line.startswith("copy "):
            raise Reject("irreversible", f"{section.path}: a copy cannot be reversed")
        if line.startswith("diff --git "):
            header.append(
                f"diff --git {quote_path('a/' + (old or section.path))} {quote_path('b/' + (new or section.path))}"
            )
        elif line.startswith(("old mode ", "new mode ")):
            modes[line[:8]] = line[9:]
            if len(modes) == 2:
                header += [f"old mode {modes['new mode']}", f"new mode {modes['old mode']}"]
        elif line.startswith("new file mode "):
            header.append("deleted" + line.removeprefix("new"))
        elif line.startswith("deleted file mode "):
            header.append("new" + line.removeprefix("deleted"))
        elif match := _INDEX.fullmatch(line):
            header.append(f"index {match[2]}..{match[1]}{match[3]}")
        elif line.startswith(("rename from ", "rename old ")):
            header.append(f"rename from {quote_path(old or '')}")
        elif line.startswith(("rename to ", "rename new ")):
            header.append(f"rename to {quote_path(new or '')}")
        elif line.startswith("--- "):
            header.append(_name_line("--- ", "a/", old))
        elif line.startswith("+++ "):
            header.append(_name_line("+++ ", "b/", new))
        else:
            header.append(line)
    return Section(old, new, header, [_reversed_hunk(hunk) for hunk in section.hunks])


def _name_line(mark: str, prefix: str, path: str | None) -> str:
    if path is None:
        return f"{mark}/dev/null"
    return f"{mark}{quote_path(prefix + path)}" + ("\t" if " " in path else "")


def _reversed_hunk(hunk: Hunk) -> Hunk:
    """Removed and added lines swap; within a run of changes the removed ones come first, as git writes them."""
    out: list[str] = []
    removed: list[str] = []
    added: list[str] = []
    last = out
    for line in hunk.lines:
        if line.startswith("\\"):
            last.append(line)
            continue
        if line.startswith("+"):
            last, turned = removed, "-" + line[1:]
        elif line.startswith("-"):
            last, turned = added, "+" + line[1:]
        else:
            out += [*removed, *added]
            removed, added = [], []
            last, turned = out, line
        last.append(turned)
    out += [*removed, *added]
    return Hunk(hunk.new_start, hunk.new_count, hunk.old_start, hunk.old_count, hunk.tail, out)
