"""Code shared by the answer formats: results, finding lines in a text, code fences."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from attrs import frozen

from loraplug_swe.mutation.functions import Span

Format = Literal["diff", "search-replace", "lines", "function"]
Reason = Literal[
    "empty", "no-edit", "unknown-file", "not-found", "ambiguous", "no-change", "syntax", "unknown-function"
]
Finder = Callable[[str], Sequence[Span]]
Target = tuple[str, str]
"""Path and qualified name of the function that an answer is about."""

_FENCE = re.compile(r"^(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)


@frozen
class Applied:
    """New texts of the files that an answer changes; `exact` is False if errors had to be tolerated."""

    files: Mapping[str, str]
    exact: bool = True


@frozen
class Refused:
    """Why an answer was not applied: a reason code and a sentence."""

    reason: Reason
    detail: str


class Refusal(Exception):  # noqa: N818 - a verdict
    """Raised while an answer is parsed."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.verdict = Refused(reason, detail)


def only_file(files: Mapping[str, str], target: Target | None) -> str:
    """The file to change if an answer names none."""
    if target is not None:
        return target[0]
    if len(files) != 1:
        raise Refusal("unknown-file", "the answer names no file")
    return next(iter(files))


def span_of(text: str, path: str, target: Target | None, find: Finder) -> Span | None:
    """The lines of the target function in the file `path`; None if it is not in this file."""
    if target is None or target[0] != path:
        return None
    try:
        return next((span for span in find(text) if span.name == target[1]), None)
    except SyntaxError:
        return None


def replaced(
    path: str, text: str, old: list[str], new: list[str], inside: Span | None, near: int | None
) -> tuple[str, bool]:
    """`text` with the lines `old` replaced, and whether they matched exactly.

    Of several matches, the only one inside the target function is used, else the one nearest to line `near`.
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
            raise Refusal("ambiguous", f"{path}: the lines to replace are there {len(places)} times")
        if places:
            at = places[0]
            done = lines[:at] + [line + end for line in new] + lines[at + len(old) :]
            return "\n".join(done) + last, key is not str.rstrip
    shown = next((line.strip() for line in old if line.strip()), "")
    raise Refusal("not-found", f"{path}: no such lines, beginning with {shown[:60]!r}")


def _places(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    if not wanted:
        return []
    last = len(lines) - len(wanted)
    return [at for at in range(last + 1) if lines[at] == wanted[0] and list(lines[at : at + len(wanted)]) == wanted]


def unfenced(answer: str, mark: re.Pattern[str]) -> str:
    """The inside of the first code fence that holds `mark`, else the whole answer."""
    return next((match[2] for match in _FENCE.finditer(answer) if mark.search(match[2])), answer)
