"""Whole corrected functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from loraplug_swe.edits.shared import Applied, Finder, Refusal, Target, unfenced
from loraplug_swe.mutation.functions import Span, dedented, indented, python_functions


def render_function(old: str, new: str, find: Finder) -> str:
    """The innermost function that contains all changes, without its indentation."""
    span, after = changed_function(old, new, find)[1], new.split("\n")
    return dedented(after[span.start : span.stop])


def changed_function(old: str, new: str, find: Finder) -> tuple[Span, Span]:
    """The innermost function outside of which nothing changes, in both texts.

    Raises:
        ValueError: there is none.
    """
    now = {span.name: span for span in find(old)}
    lines, after = old.split("\n"), new.split("\n")
    for span in sorted(find(new), key=lambda one: one.stop - one.start):
        if (was := now.get(span.name)) is None:
            continue
        if lines[: was.start] + after[span.start : span.stop] + lines[was.stop :] == after:
            return was, span
    raise ValueError("the change is not inside one function")


_DEF = re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]+(\w+)", re.MULTILINE)
_START = re.compile(r"^[ \t]*(?:@\w|(?:async[ \t]+)?def[ \t])", re.MULTILINE)


def apply_function(answer: str, files: Mapping[str, str], target: Target | None, find: Finder) -> Applied:
    """New text of the file whose function is rewritten; raises Refusal."""
    if find is python_functions:
        code = unfenced(answer, _DEF)
        if (start := _START.search(code)) is None:
            raise Refusal("no-edit", "the answer holds no function")
        code = code[start.start() :]
    else:
        code = unfenced(answer, re.compile(""))
    body = dedented(code.rstrip().split("\n"))
    if find is python_functions and body[0] in " \t":  # a string in it stands further left than the function
        body = f"if True:\n{body}"
    try:
        spans = [span for span in find(body) if "." not in span.name]
    except SyntaxError as error:
        raise Refusal("syntax", f"line {error.lineno}: {error.msg}") from None
    if not spans:
        raise Refusal("no-edit", "the answer holds no function")
    path, place, span = _meant(spans, files, target, find)
    lines = files[path].split("\n")
    end = "\r" if lines[place.start].endswith("\r") else ""
    new = [line + end for line in indented(body.split("\n")[span.start : span.stop], place.indent)]
    return Applied({path: "\n".join(lines[: place.start] + new + lines[place.stop :])})


def _meant(
    spans: Sequence[Span], files: Mapping[str, str], target: Target | None, find: Finder
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
        raise Refusal("unknown-function", f"no function {spans[0].name} to replace")
    if len(places) > 1:
        raise Refusal("ambiguous", f"{len(places)} functions are called {places[0][2].name}")
    return places[0]
