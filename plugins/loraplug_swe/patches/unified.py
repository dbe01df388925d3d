"""Unified diffs as git writes and reads them: which files they touch and where.

This module only parses; git decides whether a patch applies (`proof.py`). The grammar is that of git's
"generating patch text with -p" and of `git apply`: names come from `---`/`+++` or rename lines where there are any,
else from the `diff --git` line; hunk bodies are taken by their counts, so that a removed line `-- x`, which shows as
`--- x`, is no header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import evolve, field, frozen

from loraplug_swe.tasks.rejects import Reject

GITLINK = "160000"
HUNK = re.compile(r"@@ -(\d{1,18})(?:,(\d{1,18}))? \+(\d{1,18})(?:,(\d{1,18}))? @@(.*)", re.DOTALL)
_HEADERS = ("old mode ", "new mode ", "deleted file mode ", "new file mode ", "copy from ", "copy to ", "rename from ",
            "rename to ", "rename old ", "rename new ", "similarity index ", "dissimilarity index ",
            "index ")  # fmt: skip
_BASE85 = re.compile(r"[A-Za-z][0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]+")
_PLAIN = re.compile(r"[ !#-\[\]-~]*")
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_SHORT = {code: letter for letter, code in _ESCAPES.items()}


@frozen
class Hunk:
    """One `@@` part: counts in lines, `tail` what follows the second `@@`, `lines` with their first character."""

    old_start: int
    old_count: int
    new_start: int
    new_count: int
    tail: str
    lines: list[str]

    def header(self) -> str:
        """The `@@` line, counts of one left out as git does."""
        old = f"{self.old_start}" + (f",{self.old_count}" if self.old_count != 1 else "")
        new = f"{self.new_start}" + (f",{self.new_count}" if self.new_count != 1 else "")
        return f"@@ -{old} +{new} @@{self.tail}"


@frozen
class Section:
    """What one `diff --git` (or bare `---`/`+++`) header and its hunks do to one file.

    Attributes:
        old: path before, None where the file is created.
        new: path after, None where it is deleted.
        header: the header lines, without line ends.
        binary: a binary patch, whose body is not parsed.
    """

    old: str | None
    new: str | None
    header: list[str]
    hunks: list[Hunk] = field(factory=list)
    binary: bool = False

    @property
    def path(self) -> str:
        """The path after the change, or before it if the file is deleted."""
        return self.new if self.new is not None else self.old or ""

    def mode(self, *keys: str) -> str | None:
        """The mode that one of these header lines gives, such as `new file mode`."""
        return next(
            (line.rsplit(" ", 1)[1].strip() for key in keys for line in self.header if line.startswith(key)), None
        )

    def lines(self) -> Iterator[str]:
        """The section as text, line by line without line ends; binary bodies are left out."""
        yield from self.header
        for hunk in self.hunks:
            yield hunk.header()
            yield from hunk.lines


def parse_patch(text: str) -> list[Section]:
    """The sections of a patch, in order; the same file may come several times. Text between them is ignored.

    Raises:
        Reject: `corrupt-patch`, with the line of the error.
    """
    return [section for section, _ in parse_lines(text.removesuffix("\n").split("\n"))]


def parse_lines(lines: list[str]) -> Iterator[tuple[Section, range]]:
    """The sections of a patch as `parse_patch` gives them, each with its lines.

    Raises:
        Reject: see `parse_patch`.
    """
    at = 0
    while at < len(lines):
        start = at
        if lines[at].startswith("diff --git "):
            section, at = _git_section(lines, at)
        elif names_follow(lines, at):
            section = _named(lines[at : at + 2], at)
            at += 2
        elif HUNK.fullmatch(lines[at]):
            raise corrupt(at, "a hunk without a header that names its file")
        else:
            at += 1
            continue
        hunks, at = _hunks(lines, at)
        if section.old is None and any(hunk.old_count for hunk in hunks):
            raise corrupt(start, f"new file {section.new} depends on old contents")
        if section.new is None and any(hunk.new_count for hunk in hunks):
            raise corrupt(start, f"deleted file {section.old} still has contents")
        yield evolve(section, hunks=hunks), range(start, at)


def quote_path(path: str) -> str:
    """A path as git shows it: in quotes and C escapes where it has control characters, quotes or non-ASCII bytes."""
    if _PLAIN.fullmatch(path):
        return path
    raw = path.encode()
    shown = (
        f"\\{_SHORT[byte]}" if byte in _SHORT else chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in raw
    )
    return f'"{"".join(shown)}"'


def unquote_path(text: str) -> tuple[str, str]:
    """The path that `text`, beginning with a quotation mark, holds, and what follows the closing mark.

    Raises:
        Reject: `corrupt-patch` where it is not closed, `not-utf8` where the bytes are not UTF-8.
    """
    raw, at = bytearray(), 1
    while at < len(text):
        char = text[at]
        if char == '"':
            try:
                return raw.decode(), text[at + 1 :]
            except UnicodeDecodeError:
                raise Reject("not-utf8", f"the path {text} is not UTF-8") from None
        if char == "\\" and (octal := re.match(r"[0-3][0-7]{2}", text[at + 1 : at + 4])):
            raw.append(int(octal[0], 8))
            at += 4
        elif char == "\\" and text[at + 1 : at + 2] in _ESCAPES:
            raw.append(_ESCAPES[text[at + 1]])
            at += 2
        else:
            raw += char.encode()
            at += 1
    raise Reject("corrupt-patch", f"a quoted path is not closed: {text[:80]}")


def check_path(path: str) -> None:
    """Refuse a path that could lead out of the tree or into git's own folder.

    Raises:
        Reject: `unsafe-path`.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") or re.fullmatch(r"\.git[ .]*|git~\d", part, re.IGNORECASE) for part in parts):
        raise Reject("unsafe-path", f"{path[:200]!r} is absolute, leads out of the tree, or into .git")
    if re.search(r"[\x00-\x1f\x7f\\]", path) or parts[0][1:2] == ":":
        raise Reject("unsafe-path", f"{path[:200]!r} has a backslash, a drive or a control character")


def corrupt(at: int, what: str) -> Reject:
    """What `git apply` says of such a patch; `at` counts lines from 0."""
    return Reject("corrupt-patch", f"corrupt patch at line {at + 1}: {what}")


def names_follow(lines: list[str], at: int) -> bool:
    """Whether `---`, `+++` and a hunk begin here."""
    return (
        at + 2 < len(lines)
        and lines[at].startswith("--- ")
        and lines[at + 1].startswith("+++ ")
        and lines[at + 2].startswith("@@ -")
    )


def _git_section(lines: list[str], start: int) -> tuple[Section, int]:
    at = start + 1
    while at < len(lines) and lines[at].startswith(_HEADERS):
        at += 1
    names = names_follow(lines, at)
    at += 2 if names else 0
    section = _named(lines[start:at], start)
    if not names and at < len(lines):
        if lines[at] == "GIT binary patch":
            return evolve(section, binary=True), _binary_end(lines, at + 1)
        if lines[at].startswith("Binary files ") and lines[at].endswith(" differ"):
            return evolve(section, binary=True), at + 1
    return section, at


def _binary_end(lines: list[str], at: int) -> int:
    """Where a binary patch ends: the new content, and mostly the old one, each up to an empty line."""
    for turn in range(2):
        if at >= len(lines) or not re.fullmatch(r"(?:literal|delta) \d{1,18}", lines[at]):
            if turn:
                break
            raise corrupt(min(at, len(lines) - 1), "unrecognized binary patch")
        at += 1
        while at < len(lines) and lines[at]:
            if not _BASE85.fullmatch(lines[at]) or (len(lines[at]) - 1) % 5:
                raise corrupt(at, "corrupt binary patch")
            at += 1
        at += 1
    return min(at, len(lines))


def _named(header: list[str], at: int) -> Section:
    """A section without hunks, named by its header."""
    found = {key: line[len(key) :] for line in header for key in _NAME_LINES if line.startswith(key)}
    created = any(line.startswith("new file mode ") for line in header)
    deleted = any(line.startswith("deleted file mode ") for line in header)
    if "--- " in found:
        old, new = _file_name(found["--- "], at), _file_name(found["+++ "], at)
    elif verb := next(
        (verb for verb in ("rename", "copy") if f"{verb} to " in found or f"{verb} from " in found), None
    ):
        if not {f"{verb} from ", f"{verb} to "} <= found.keys():
            raise corrupt(at, f"a {verb} names one file, not two")
        old, new = _bare(found[f"{verb} from "]), _bare(found[f"{verb} to "])
    else:
        old = new = _twin(header[0].removeprefix("diff --git "), at)
    old, new = None if created else old, None if deleted else new
    if old is None and new is None:
        raise corrupt(at, "names no file")
    return Section(old, new, header)


_NAME_LINES = ("--- ", "+++ ", "rename from ", "rename to ", "copy from ", "copy to ")


def _bare(text: str) -> str:
    return unquote_path(text)[0] if text.startswith('"') else text


def _file_name(text: str, at: int) -> str | None:
    """The path in a `---` or `+++` line: what stands before a tab, its first part (`a/`) off; None for /dev/null."""
    name = unquote_path(text)[0] if text.startswith('"') else text.split("\t", 1)[0].removesuffix("\r")
    if name == "/dev/null":
        return None
    _, slash, path = name.partition("/")
    if not slash or not path:
        raise corrupt(at, f"no path behind the prefix: {name[:80]!r}")
    return path


def _twin(text: str, at: int) -> str:
    """The path of a `diff --git` line that says it twice, the only place of it in an empty or mode-only change."""
    if text.startswith('"'):
        return unquote_path(text)[0].partition("/")[2]
    for space in (match.start() for match in re.finditer(" ", text)):
        left, right = text[:space], _bare(text[space + 1 :])
        if left.partition("/")[2] == right.partition("/")[2]:
            return right.partition("/")[2]
        if left == "/dev/null" or right == "/dev/null":
            return (right if left == "/dev/null" else left).partition("/")[2]
    raise corrupt(at, f"no file name in: diff --git {text[:120]}")


def _hunks(lines: list[str], at: int) -> tuple[list[Hunk], int]:
    hunks: list[Hunk] = []
    while at < len(lines) and (match := HUNK.fullmatch(lines[at])):
        old_start, new_start = int(match[1]), int(match[3])
        old_count, new_count = (1 if text is None else int(text) for text in (match[2], match[4]))
        head, start = at, at + 1
        old_left, new_left, at = take_hunk(lines, start, old_count, new_count)
        if old_left or new_left:
            got = f"{old_count - old_left} old and {new_count - new_left} new lines"
            raise corrupt(min(at, len(lines) - 1), f"the hunk of line {head + 1} says {old_count} old and {new_count} "
                          f"new lines, and {got} are there")  # fmt: skip
        if not any(line.startswith(("+", "-")) for line in lines[start:at]):
            raise corrupt(head, "the hunk changes nothing")
        hunks.append(Hunk(old_start, old_count, new_start, new_count, match[5], lines[start:at]))
    return hunks, at


def take_hunk(lines: list[str], at: int, old: int, new: int) -> tuple[int, int, int]:
    """Take up to so many old and new lines of a hunk's body from `at` on: how many are missing, and where it ends."""
    while (old > 0 or new > 0) and at < len(lines):
        kind = lines[at][:1]
        if kind not in ("", " ", "-", "+") and not _no_newline(lines[at]):
            break
        old -= kind in ("", " ", "-")
        new -= kind in ("", " ", "+")
        at += 1
    if at < len(lines) and _no_newline(lines[at]):
        at += 1
    return old, new, at


def _no_newline(line: str) -> bool:
    return line.startswith("\\ ") and len(line) >= 11  # "\ No newline at end of file", in any language
