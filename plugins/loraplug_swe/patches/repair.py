"""Repairs patches from data sets: parses them completely and removes text that is not part of the diff.

Only unambiguous defects are repaired: line ends, text around the diff (fences, prose, a mail's header and
signature), a missing last line break, `diff` without `--git`, names without `a/` and `b/`, and a hunk that is longer
than its header says and is followed by another. Everything else is rejected with git's message. A valid
patch stays unchanged.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator

from attrs import frozen

from loraplug_swe.patches.unified import HUNK, Section, check_path, corrupt, names_follow, parse_lines, take_hunk
from loraplug_swe.tasks.rejects import Reject

LINE_ENDS, LAST_LINE, AROUND = "line ends", "last line break", "text around the diff"
HEADERS, COUNTS = "header lines", "hunk counts"

_PLAIN_DIFF = re.compile(r"diff (?:-\S+ )*(a/(\S+)) (b/\2)")
_GIT_DIFF = re.compile(r"diff --git (\S+) (\S+)")
_CHANGES = ("old mode ", "new file mode ", "deleted file mode ", "rename from ", "rename old ", "copy from ")
_FULL_INDEX = re.compile(r"index [0-9a-f]{40,64}\.\.[0-9a-f]{40,64}")
_MODE = re.compile(r"(?:old mode|new mode|deleted file mode|new file mode|index \S*\.\.\S*) (.*)", re.DOTALL)
_PREFIXES = {"a", "b", "c", "i", "o", "w", "1", "2", "old", "new", "orig"}  # git's, and those of diff's users


@frozen
class Sound:
    """A patch that git can read; `mended` names the repairs."""

    text: str
    mended: tuple[str, ...] = ()


def sound_patch(text: str) -> Sound:
    """The patch in `text`.

    Raises:
        Reject: `empty-patch`; `corrupt-patch` with the line; `unsafe-path`; `binary-file` for a change without content.
    """
    if not text.strip():
        raise Reject("empty-patch", "the patch is empty")
    mended = [] if text.endswith("\n") else [LAST_LINE]
    lines = text.removeprefix("\ufeff").removesuffix("\n").split("\n")
    for what, change in ((LINE_ENDS, _line_ends), (HEADERS, _headers), (COUNTS, _counts)):
        if (changed := change(lines)) != lines:
            lines = changed
            mended.append(what)
    kept: list[str] = []
    for section, span in parse_lines(lines):
        part = lines[span.start : span.stop]
        _check(section, part, span.start)
        kept += part
        if section.binary and part[-1]:
            kept.append("")  # git ends a binary patch by an empty line
    if not kept:
        told = "no line of it begins a diff, as `diff --git` or `---` and `+++` do"
        raise Reject("corrupt-patch", f"No valid patches in input: {told}")
    if kept != lines or text.startswith("\ufeff"):
        mended.append(AROUND)
    return Sound("\n".join(kept) + "\n", tuple(mended))


def _outside(lines: list[str]) -> Iterator[int]:
    """The lines that are in no hunk, the headers of hunks among them."""
    at = 0
    while at < len(lines):
        yield at
        match = HUNK.fullmatch(lines[at])
        at += 1
        if match is not None:
            _, _, at = take_hunk(lines, at, *_said(match))


def _said(match: re.Match[str]) -> tuple[int, int]:
    """Old and new lines of a hunk, as its header says."""
    return int(match[2] or 1), int(match[4] or 1)


def _line_ends(lines: list[str]) -> list[str]:
    """Without carriage returns where the lines that name files have them, which git never writes there."""
    bare = [line.removesuffix("\r") for line in lines]
    names = [at for at in _outside(bare) if bare[at].startswith("diff --git ") or names_follow(bare, at)]
    if not names or not all(lines[at].endswith("\r") for at in names):
        return lines
    return bare


def _headers(lines: list[str]) -> list[str]:
    """With `diff --git a/x b/x` where `diff` alone, or names without `a/` and `b/`, plainly mean that.

    Raises:
        Reject: `corrupt-patch` where git would take the first folder of a new file for a prefix.
    """
    out = list(lines)
    bare = headed = False  # whether the last `diff --git` had no prefixes, and whether there was one for these names
    for at in _outside(lines):
        line = lines[at]
        if match := _GIT_DIFF.fullmatch(line):
            bare, headed = match[1] == match[2] and not match[1].startswith(("a/", "b/")), True
            if bare:
                out[at] = f"diff --git a/{match[1]} b/{match[2]}"
        elif (match := _PLAIN_DIFF.fullmatch(line)) and not names_follow(lines, at + 1):
            out[at], headed = f"diff --git {match[1]} {match[3]}", True
        elif names_follow(lines, at):
            old, new = (lines[place][4:].split("\t")[0] for place in (at, at + 1))
            if (old == new and not old.startswith(("a/", "b/", '"'))) or (bare and "/dev/null" in (old, new)):
                out[at] = line if old == "/dev/null" else f"--- a/{line[4:]}"
                out[at + 1] = lines[at + 1] if new == "/dev/null" else f"+++ b/{lines[at + 1][4:]}"
            elif not headed and "/dev/null" in (old, new):
                name = new if old == "/dev/null" else old
                if name.strip('"').partition("/")[0] not in _PREFIXES:
                    raise corrupt(at, f"{name} has no prefix a/ or b/, and git would leave out its first folder")
            bare = headed = False
    return out


def _counts(lines: list[str]) -> list[str]:
    """With the true counts in the header of a hunk that goes on past them up to another hunk or file.

    At the end of the text such lines may be anything, and git would pass over them.

    Raises:
        Reject: `corrupt-patch` where a hunk goes on to the end of the text.
    """
    out = list(lines)
    at = 0
    while at < len(lines):
        head, match = at, HUNK.fullmatch(lines[at])
        at += 1
        if match is None:
            continue
        old, new, at = take_hunk(lines, at, *_said(match))
        end = at
        while end < len(lines) and lines[end][:1] in ("+", "-", " ", "\\") and not names_follow(lines, end):
            end += 1
        more = lines[at:end]
        goes_on = end < len(lines) and HUNK.fullmatch(lines[end]) is not None
        changes = any(line.startswith(("+", "-")) for line in more)
        if old or new or not more or more[0].rstrip() == "--" or not (changes or goes_on):
            continue  # right, or cut short, which is told later; two dashes begin the signature of a mail
        if not goes_on and not (end < len(lines) and (lines[end].startswith("diff ") or names_follow(lines, end))):
            said = "the hunk of line {} goes on past the {} old and {} new lines that its header says"
            raise corrupt(at, said.format(head + 1, *_said(match)))
        old = _said(match)[0] + sum(line.startswith(("-", " ")) for line in more)
        new = _said(match)[1] + sum(line.startswith(("+", " ")) for line in more)
        out[head] = f"@@ -{match[1]},{old} +{match[3]},{new} @@{match[5]}"
        at = end
    return out


def _check(section: Section, lines: list[str], at: int) -> None:
    """What `git apply` would refuse whatever the tree is; `at` is where the section begins.

    Raises:
        Reject: see `sound_patch`.
    """
    for path in (section.old, section.new):
        if path is not None:
            check_path(path)
    for line in section.header:
        if (match := _MODE.match(line)) and not re.match(r"\s*[0-7]+(\s|$)", match[1]):
            raise corrupt(at + section.header.index(line), f"invalid mode: {line[:80]}")
    if section.binary:
        if "GIT binary patch" not in lines:
            raise Reject(
                "binary-file", f"cannot apply binary patch to '{section.path}': its content is not in the patch"
            )
        if not any(map(_FULL_INDEX.match, section.header)):
            raise Reject("binary-file", f"cannot apply binary patch to '{section.path}' without full index line")
        _check_binary(lines, at)
    elif not section.hunks and not any(line.startswith(_CHANGES) for line in section.header):
        raise corrupt(at, f"patch with only garbage: nothing of {section.path} is changed")


def _check_binary(lines: list[str], at: int) -> None:
    packed, size, begun = b"", 0, 0
    for place, line in enumerate([*lines, ""]):
        if match := re.fullmatch(r"(?:literal|delta) (\d{1,18})", line):
            packed, size, begun = b"", int(match[1]), place
        elif begun and line:
            count = ord(line[0]) - (38 if line[0] >= "a" else 64)
            packed += base64.b85decode(line[1:])[:count]
        elif begun:
            try:
                whole = len(zlib.decompress(packed)) == size
            except zlib.error:
                whole = False
            if not whole:
                raise corrupt(at + begun, "corrupt binary patch")
            begun = 0
