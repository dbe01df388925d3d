"""Command outputs that an agent would see, computed from git objects: listings, whole files, pages of long files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import groupby

from attrs import frozen

from loraplug_swe.patches.proof import Proof
from loraplug_swe.patches.unified import GITLINK, Hunk, Section, parse_patch, quote_path
from loraplug_swe.repositories.objects import TREE, Objects
from loraplug_swe.tasks.rejects import Reject

_LINK = "120000"
_FOLDERS = "the upper folders of the repository"
_ODD = re.compile(rb'[^\n -~]|["\\]')


@frozen
class Look:
    """A command and what it prints.

    Attributes:
        about: what the command shows, for the sentence before it.
        path: the file, "" for the tree.
        lines: first and last line shown and lines in all, where the file is shown in pages.
    """

    command: str
    output: str
    about: str
    path: str = ""
    lines: tuple[int, int, int] | None = None


def look_at_tree(objects: Objects, proof: Proof, most: int) -> Look:
    """`git ls-files`, or only the top folders if that has more than `most` lines."""
    if not proof.added and not proof.removed and (look := _look_at_plain_tree(objects, proof.base, most)):
        return look
    paths = objects.paths(proof.base)
    if proof.added or proof.removed:
        paths = sorted((set(paths) | proof.added) - proof.removed)
    shown = _show_paths(paths)
    if len(paths) <= most:
        return Look("git ls-files", _lines(shown), "the files of the repository")
    for depth in (2, 1):
        upper = [name for name, _ in groupby("/".join(path.split("/")[:depth]) for path in shown)]
        fields = "1" if depth == 1 else f"1-{depth}"
        if len(upper) <= most:
            return Look(f"git ls-files | cut -d/ -f{fields} | uniq", _lines(upper), _FOLDERS)
    return Look(f"git ls-files | cut -d/ -f1 | uniq | head -n {most}", _lines(upper[:most]),
                "the beginning of the repository's top folder")  # fmt: skip


def _look_at_plain_tree(objects: Objects, tree: str, most: int) -> Look | None:
    """The same for a large tree without odd names, from its upper folders alone."""
    files, plain = objects.summary(tree)
    if not plain or files <= most:
        return None
    upper = [name.decode() for name in objects.entries(tree)]
    two = [path for name, node in objects.entries(tree).items()
           for path in (objects.beneath(node.oid, name) if node.mode == TREE else [name.decode()])]  # fmt: skip
    for fields, names in (("1-2", two), ("1", upper)):
        if len(names) <= most:
            return Look(f"git ls-files | cut -d/ -f{fields} | uniq", _lines(names), _FOLDERS)
    return None


def look_at_files(objects: Objects, proof: Proof, most: int) -> list[Look]:
    """Every existing file that the change touches; files over `most` lines are shown in pages around the change.

    Raises:
        Reject: `not-utf8` or `binary-file` where a file cannot be shown as text, `missing-object`.
    """
    looks: list[Look] = []
    seen: set[str] = set()
    for section in parse_patch(proof.diff):
        if section.old is not None and section.old not in seen:
            seen.add(section.old)
            looks += _look_at(objects, proof, section, section.old, most)
    return looks


def page_lines(hunks: Sequence[Hunk], total: int, size: int) -> list[tuple[int, int]]:
    """Windows of at most `size` lines, first and last counted from 1, in which every line the hunks name is seen."""
    pages: list[tuple[int, int]] = []
    for hunk in hunks:
        first = max(1, hunk.old_start)
        last = min(total, max(first, hunk.old_start + hunk.old_count - 1))
        while first <= last:
            if pages and first <= pages[-1][1]:
                first = pages[-1][1] + 1
                continue
            room = max(0, size - (last - first + 1)) // 2
            start = max(pages[-1][1] + 1 if pages else 1, min(first - room, total - size + 1))
            pages.append((start, min(total, start + size - 1)))
    return pages


def show_path(path: bytes) -> str:
    """A path as git prints it; non-ASCII bytes are octal escapes."""
    try:
        return quote_path(path.decode())
    except UnicodeDecodeError:
        escaped = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in path)
        return f'"{"".join(escaped)}"'


def _look_at(objects: Objects, proof: Proof, section: Section, path: str, most: int) -> list[Look]:
    if (node := proof.before.get(path)) is None:
        return []
    name = shlex.quote(path)
    dashes = "-- " if path.startswith("-") else ""
    if node.mode == GITLINK:
        output = f"{GITLINK} commit {node.oid}\t{quote_path(path)}\n"
        return [Look(f"git ls-tree HEAD -- {name}", output, "the submodule", path)]
    raw = objects.read(node.oid)
    try:
        text = raw.decode()
        if section.binary or "\0" in text:
            raise Reject("binary-file", f"{path} is a binary file")
    except UnicodeDecodeError as error:
        if not section.hunks and not section.binary:
            return []  # moved or made executable, its content does not matter
        raise Reject("not-utf8", f"{path} is not UTF-8 (byte {error.start})") from None
    if node.mode == _LINK:
        return [Look(f"readlink {dashes}{name}", text + "\n", "the symbolic link", path)]
    lines = text.split("\n")
    total = len(lines) - (lines[-1] == "")
    if total <= most or not section.hunks:
        return [Look(f"cat {dashes}{name}", text, "the file", path)]
    lines = [f"{line}\n" for line in lines[:-1]] + [lines[-1]]
    return [
        Look(
            f"sed -n '{first},{last}p' {dashes}{name}", "".join(lines[first - 1 : last]), "part of the file", path,
            (first, last, total),
        )
        for first, last in page_lines(section.hunks, total, most)
    ]  # fmt: skip


def _show_paths(paths: list[bytes]) -> list[str]:
    joined = b"\n".join(paths)
    if _ODD.search(joined) or joined.count(b"\n") != len(paths) - 1:
        return [show_path(path) for path in paths]
    return joined.decode().split("\n")


def _lines(items: Iterable[str]) -> str:
    return "".join(f"{item}\n" for item in items)
