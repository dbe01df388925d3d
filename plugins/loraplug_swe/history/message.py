"""The part of a commit message that describes the problem, without the fix."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TRAILER = re.compile(r"[A-Z][\w-]*-(?:by|to|from|Id|id|on|at):\s|git-svn-id:|\(cherry picked from ")
_PATCH = re.compile(r"(?:diff --git |@@ |--- |\+\+\+ |[+-]\s*\S.*[=(\[{:;])")
_WORD = re.compile(r"[A-Za-z_][\w.]*")
_CODE_LIKE = re.compile(r"_|\.|[a-z][A-Z]|\d")
_SHORTEST = 5  # characters of a line of code that is looked for


def told_message(message: str, patch: str, before: Iterable[str], new_files: Iterable[str]) -> str:
    """The lines of a commit message that do not reveal its fix; "" if the subject reveals it.

    Left out are patches, fenced code, trailers, and each line with a line that the patch adds, a name that looks like
    code and is only in what it adds, or a file that it makes.

    Args:
        patch: the fix.
        before: texts that the model may see: the code without the fix, the tests.
        new_files: paths that only the fix creates.
    """
    seen = "\n".join(before)
    added = [line[1:] for line in patch.split("\n") if line.startswith("+") and not line.startswith("+++ ")]
    known = set(_WORD.findall(seen))
    known |= {part for word in known for part in word.split(".")}
    words = {word for line in added for name in _WORD.findall(line) for word in (name, *name.split("."))}
    secret = {word for word in words - known if len(word) > 1}
    squeezed = _squeezed(seen)
    code = {_squeezed(line) for line in added} - {_squeezed(line) for line in seen.split("\n")}
    code = {line for line in code if len(line) >= _SHORTEST and line not in squeezed}
    files = {name for path in new_files for name in (path, path.rpartition("/")[2], path.removesuffix(".py"))}
    files |= {name.rpartition("/")[2].removesuffix(".py") for name in files}
    out: list[str] = []
    fenced = False
    for at, line in enumerate(message.replace("\r\n", "\n").split("\n")):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
            continue
        leaks = fenced or _leaks(line, code, secret, files)
        if leaks and at == 0:
            return ""
        if not leaks:
            out.append(line.rstrip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


def _leaks(line: str, code: Iterable[str], secret: set[str], files: Iterable[str]) -> bool:
    if _TRAILER.match(line) or _PATCH.match(line):
        return True
    tight = _squeezed(line)
    if any(one in tight for one in code) or any(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", line) for one in files):
        return True
    quoted = {name for span in re.findall(r"[`'\"]([^`'\"]+)[`'\"]", line) for name in _WORD.findall(span)}
    called = set(re.findall(r"([A-Za-z_][\w.]*)\s*\(", line))
    names = {name for name in _WORD.findall(line) if _CODE_LIKE.search(name.rstrip("."))} | quoted | called
    return any(part in secret for name in names for part in (name.rstrip("."), *name.split(".")))


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)
