"""Answers as edits: three formats a model may write a change in, and how an answer of each becomes new files.

| format | an answer | applied by |
|---|---|---|
| `diff` | a unified diff as git writes it | the lines of each hunk, nearest to where its header says |
| `search-replace` | path, then lines to look for and lines to put there | the lines, which must be in the file once |
| `function` | the whole function as it should be | the function of that name |

`render` writes an answer, `apply` takes one, with or without a code fence and words around it. What `apply` refuses has
a reason that can be counted. It is lenient where the meaning is plain (white space at line ends, wrong line numbers)
and says so in `Applied.exact`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from attrs import frozen

from loraplug_bugs.functions import Span, dedented, indented, python_functions

Format = Literal["diff", "search-replace", "function"]
Reason = Literal[
    "empty", "no-edit", "unknown-file", "not-found", "ambiguous", "no-change", "syntax", "unknown-function"
]
Finder = Callable[[str], Sequence[Span]]

_FENCE = re.compile(r"^(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(
    r"^<{5,9} ?SEARCH[ \t]*\n(?P<old>.*?)^={5,9}[ \t]*\n(?P<new>.*?)^>{5,9} ?REPLACE[ \t]*$", re.DOTALL | re.MULTILINE
)
_HUNK = re.compile(r"@@+ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@+")


@frozen
class Applied:
    """New texts of the files that an answer changes; `exact` is False where leniency was needed."""

    files: Mapping[str, str]
    exact: bool = True


@frozen
class Refused:
    """Why an answer changes nothing: a code to count, and a sentence."""

    reason: Reason
    detail: str


class _Refusal(Exception):  # noqa: N818 - a verdict
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.verdict = Refused(reason, detail)


def render(
    path: str,
    old: str,
    new: str,
    form: Format,
    find: Finder = python_functions,
    target: tuple[str, str] | None = None,
) -> str:
    """The answer that takes the file `path` from `old` to `new`, ending in a line feed.

    `target` and `find` are those of `apply`; where a target is given, blocks need only be plain inside it.

    Raises:
        ValueError: nothing differs, or for `function`: the change is not inside one function.
    """
    if old == new:
        raise ValueError("nothing differs")
    if form == "diff":
        return unified_diff(path, old, new)
    if form == "search-replace":
        return _search_replace(path, old, new, target, find)
    return _function(old, new, find)


def unified_diff(path: str, old: str, new: str) -> str:
    """A patch that `git apply` takes."""
    lines = difflib.unified_diff(_lines(old), _lines(new), f"a/{path}", f"b/{path}")
    body = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return f"diff --git a/{path} b/{path}\n{body}"


def apply(
    answer: str,
    files: Mapping[str, str],
    form: Format | None = None,
    target: tuple[str, str] | None = None,
    find: Finder = python_functions,
) -> Applied | Refused:
    """What an answer makes of `files`.

    Args:
        answer: a model's words.
        files: texts by path, all an answer may change.
        form: the format asked for; None takes what the answer looks like.
        target: path and qualified name of the function in question: decides which of several equal places is meant.
        find: the functions of a text, for other languages.
    """
    if not answer.strip():
        return Refused("empty", "the answer is empty")
    answer = answer.replace("\r\n", "\n")
    ways: dict[Format, Callable[[], Applied]] = {
        "diff": lambda: _apply_diff(answer, files, target, find),
        "search-replace": lambda: _apply_blocks(answer, files, target, find),
        "function": lambda: _apply_function(answer, files, target, find),
    }
    try:
        done = ways[form or _looks_like(answer)]()
    except _Refusal as refusal:
        return refusal.verdict
    changed = {path: text for path, text in done.files.items() if text != files[path]}
    return Applied(changed, done.exact) if changed else Refused("no-change", "the answer leaves all as it is")


def _looks_like(answer: str) -> Format:
    if _BLOCK.search(answer):
        return "search-replace"
    return "diff" if _HUNK.search(answer) else "function"


# search and replace


def _search_replace(path: str, old: str, new: str, target: tuple[str, str] | None, find: Finder) -> str:
    """Blocks with as few unchanged lines round each change, before it sooner than after, as leave no doubt."""
    before, after = old.removesuffix("\n").split("\n"), new.removesuffix("\n").split("\n")
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    changes = [one[1:] for one in matcher.get_opcodes() if one[0] != "equal"]
    for more in range(2 * len(before) + 1):
        for above in range(more, more // 2 - 1, -1):
            blocks = f"{path}\n"
            for start, stop, new_start, new_stop in _widened(changes, above, more - above, len(before)):
                sides = before[start:stop], after[new_start:new_stop]
                blocks += "\n".join(["<<<<<<< SEARCH", *sides[0], "=======", *sides[1], ">>>>>>> REPLACE", ""])
            if apply(blocks, {path: old}, "search-replace", target, find) == Applied({path: new}):
                return blocks
    raise ValueError("the change cannot be told in blocks: lines that look like marks, or only the last line feed")


_Region = tuple[int, int, int, int]


def _widened(changes: Sequence[_Region], above: int, below: int, end: int) -> list[_Region]:
    """Changed line ranges of both sides with so many lines round them; those that meet become one."""
    found: list[_Region] = []
    for start, stop, new_start, new_stop in changes:
        up, down = min(above, start), min(below, end - stop)
        one = (start - up, stop + down, new_start - up, new_stop + down)
        if found and one[0] < found[-1][1]:
            last = found.pop()
            one = (last[0], max(last[1], one[1]), last[2], max(last[3], one[3]))
        found.append(one)
    return found


def _apply_blocks(answer: str, files: Mapping[str, str], target: tuple[str, str] | None, find: Finder) -> Applied:
    texts, exact, last = dict(files), True, 0
    blocks = list(_BLOCK.finditer(answer))
    if not blocks:
        raise _Refusal("no-edit", "no block of <<<<<<< SEARCH, =======, >>>>>>> REPLACE")
    path: str | None = None
    for block in blocks:
        path = _named(answer[last : block.start()], files) or path or _only(files, target)
        last = block.end()
        old, new = block["old"].split("\n")[:-1], block["new"].split("\n")[:-1]
        texts[path], strict = _replace(path, texts[path], old, new, _span(texts[path], path, target, find), None)
        exact = exact and strict
    return Applied(texts, exact)


def _named(words: str, files: Mapping[str, str]) -> str | None:
    """The file that the words before a block name, on a line of its own or after `file:`."""
    for line in reversed(words.splitlines()):
        bare = line.strip().strip("`*#: ").removeprefix("File:").removeprefix("file:").strip("`* ")
        if bare.removeprefix("./") in files:
            return bare.removeprefix("./")
        if re.fullmatch(r"[\w./+-]+\.\w{1,5}", bare):
            raise _Refusal("unknown-file", f"{bare} is not among the files")
    return None


def _only(files: Mapping[str, str], target: tuple[str, str] | None) -> str:
    if target is not None:
        return target[0]
    if len(files) != 1:
        raise _Refusal("unknown-file", "the answer names no file")
    return next(iter(files))


def _span(text: str, path: str, target: tuple[str, str] | None, find: Finder) -> Span | None:
    if target is None or target[0] != path:
        return None
    try:
        return next((span for span in find(text) if span.name == target[1]), None)
    except SyntaxError:
        return None


def _replace(
    path: str, text: str, old: list[str], new: list[str], inside: Span | None, near: int | None
) -> tuple[str, bool]:
    """`text` with the lines `old` replaced, and whether they were there to the letter.

    Of several places the only one inside the function in question is taken, else the one nearest to line `near`.
    """
    last = "\n" if text.endswith("\n") else ""
    lines = text.removesuffix("\n").split("\n")
    end = "\r" if lines[0].endswith("\r") else ""
    for key in (lambda line: line.removesuffix("\r"), str.rstrip):
        wanted = [key(line) for line in old]
        places = _places([key(line) for line in lines], wanted)
        if len(places) > 1 and inside is not None:
            places = [at for at in places if inside.start <= at < inside.stop] or places
        if len(places) > 1 and near is not None:
            places = [min(places, key=lambda at: (abs(at - near), at))]
        if len(places) > 1:
            raise _Refusal("ambiguous", f"{path}: the lines to replace are there {len(places)} times")
        if places:
            at = places[0]
            done = lines[:at] + [line + end for line in new] + lines[at + len(old) :]
            return "\n".join(done) + last, key is not str.rstrip
    shown = next((line.strip() for line in old if line.strip()), "")
    raise _Refusal("not-found", f"{path}: no such lines, beginning with {shown[:60]!r}")


def _places(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    if not wanted:
        return []
    last = len(lines) - len(wanted)
    return [at for at in range(last + 1) if lines[at] == wanted[0] and list(lines[at : at + len(wanted)]) == wanted]


# unified diffs


def _apply_diff(answer: str, files: Mapping[str, str], target: tuple[str, str] | None, find: Finder) -> Applied:
    texts, exact, path = dict(files), True, ""
    lines = _unfenced(answer, _HUNK).split("\n")
    at = hunks = 0
    drift: dict[str, int] = {}
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("+++ "):
            path = line[4:].split("\t")[0].strip().strip('"')
            path = path if path in files else path.removeprefix("b/")
            if path not in files:
                raise _Refusal("unknown-file", f"{path} is not among the files")
        elif match := _HUNK.match(line):
            path = path or _only(files, target)
            old, new, at = _hunk(lines, at)
            near = int(match[1]) - 1 + drift.get(path, 0)
            found = _span(texts[path], path, target, find)
            texts[path], strict = _replace(path, texts[path], old, new, found, near)
            drift[path] = drift.get(path, 0) + len(new) - len(old)
            exact, hunks = exact and strict, hunks + 1
    if not hunks:
        raise _Refusal("no-edit", "no hunk beginning with @@ -line,count +line,count @@")
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
        raise _Refusal("no-edit", "a hunk without a line to find its place by")
    return old, new, at


def _header(lines: list[str], at: int) -> bool:
    return at + 2 < len(lines) and lines[at + 1].startswith("+++ ") and lines[at + 2].startswith("@@ ")


def _unfenced(answer: str, mark: re.Pattern[str]) -> str:
    """The inside of the first code fence that holds `mark`, else all of the answer."""
    return next((match[2] for match in _FENCE.finditer(answer) if mark.search(match[2])), answer)


# whole functions


def _function(old: str, new: str, find: Finder) -> str:
    now = {span.name: span for span in find(old)}
    lines, after = old.split("\n"), new.split("\n")
    for span in sorted(find(new), key=lambda one: one.stop - one.start):  # the innermost first
        if (was := now.get(span.name)) is None:
            continue
        if lines[: was.start] + after[span.start : span.stop] + lines[was.stop :] == after:
            return dedented(after[span.start : span.stop])
    raise ValueError("the change is not inside one function")


_DEF = re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]+(\w+)", re.MULTILINE)
_START = re.compile(r"^[ \t]*(?:@\w|(?:async[ \t]+)?def[ \t])", re.MULTILINE)


def _apply_function(answer: str, files: Mapping[str, str], target: tuple[str, str] | None, find: Finder) -> Applied:
    if find is python_functions:
        code = _unfenced(answer, _DEF)
        if (start := _START.search(code)) is None:
            raise _Refusal("no-edit", "the answer holds no function")
        code = code[start.start() :]
    else:
        code = _unfenced(answer, re.compile(""))
    body = dedented(code.rstrip().split("\n"))
    if body[0] in " \t":  # a string in it stands further left than the function
        body = f"if True:\n{body}"
    try:
        spans = [span for span in find(body) if "." not in span.name]
    except SyntaxError as error:
        raise _Refusal("syntax", f"line {error.lineno}: {error.msg}") from None
    if not spans:
        raise _Refusal("no-edit", "the answer holds no function")
    path, place, span = _meant(spans, files, target, find)
    lines = files[path].split("\n")
    end = "\r" if lines[place.start].endswith("\r") else ""
    new = [line + end for line in indented(body.split("\n")[span.start : span.stop], place.indent)]
    return Applied({path: "\n".join(lines[: place.start] + new + lines[place.stop :])})


def _meant(
    spans: Sequence[Span], files: Mapping[str, str], target: tuple[str, str] | None, find: Finder
) -> tuple[str, Span, Span]:
    """The path and the function that one of the answer's functions replaces, and this one."""
    offered = {target[0]: files[target[0]]} if target else files
    places = [
        (path, there, span)
        for span in spans
        for path, text in offered.items()
        for there in find(text)
        if (there.name == target[1] if target else True) and there.name.rpartition(".")[2] == span.name
    ]
    if not places:
        raise _Refusal("unknown-function", f"no function {spans[0].name} to replace")
    if len(places) > 1:
        raise _Refusal("ambiguous", f"{len(places)} functions are called {places[0][2].name}")
    return places[0]


def _lines(text: str) -> list[str]:
    r"""Lines with their ends; only `\n` ends one, as for git."""
    return [line for line in re.split(r"(?<=\n)", text) if line]
