"""Numbered lines: `12|text` replaces line 12 of a function, `12-` deletes it.

Lines count from 1 at the function's first line, decorators included, and are written as the prompt shows them
(`numbered`): without the indentation of the function's class. Repeating a number inserts several lines for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from loraplug_swe.edits.changes import changes
from loraplug_swe.edits.shared import Applied, Finder, Refusal, Target, span_of
from loraplug_swe.edits.whole import changed_function
from loraplug_swe.mutation.functions import Span, dedented, indented

LINE = re.compile(r"^[ \t]*(\d{1,5})(?:\|(.*)|-[ \t]*)$", re.MULTILINE)


def numbered(source: str) -> str:
    """A function's lines with their numbers, as a prompt shows them."""
    return "".join(f"{at}|{line}\n" for at, line in enumerate(source.removesuffix("\n").split("\n"), 1))


def render_lines(path: str, old: str, new: str, target: Target | None, find: Finder) -> str:
    """The changed lines, numbered within the function `target`, else within the innermost changed function."""
    texts = old.split("\n"), new.split("\n")
    if target is None or target[0] != path:
        spans = changed_function(old, new, find)
    else:
        found = span_of(old, path, target, find), span_of(new, path, target, find)
        if found[0] is None or found[1] is None:
            raise ValueError(f"there is no function {target[1]}")
        spans = found[0], found[1]
        if (
            texts[0][: spans[0].start] + texts[1][spans[1].start : spans[1].stop] + texts[0][spans[0].stop :]
            != texts[1]
        ):
            raise ValueError("the change is not inside the function")
    before, after = (_shown(text, span) for text, span in zip(texts, spans, strict=True))
    out = []
    for start, stop, new_start, new_stop in changes(before, after):
        if start == stop:  # the line above is said again, and the new ones after it
            above = max(start, 1)
            out += [f"{above}|{line}\n" for line in _round(before, above, start, after[new_start:new_stop])]
        elif new_start == new_stop:
            out += [f"{at}-\n" for at in range(start + 1, stop + 1)]
        else:
            old_lines = stop - start
            for at, line in enumerate(after[new_start:new_stop]):
                out.append(f"{start + 1 + min(at, old_lines - 1)}|{line}\n")
            out += [f"{at}-\n" for at in range(start + 1 + new_stop - new_start, stop + 1)]
    return "".join(out)


def _round(before: Sequence[str], above: int, start: int, new: Sequence[str]) -> list[str]:
    return [before[above - 1], *new] if start else [*new, before[0]]


def apply_lines(answer: str, files: Mapping[str, str], target: Target | None, find: Finder) -> Applied:
    """New text of the file whose numbered lines change; raises Refusal."""
    said = list(LINE.finditer(answer))
    if not said:
        raise Refusal("no-edit", "no line such as `12|new text`")
    if target is None:
        raise Refusal("unknown-function", "line numbers count within a function, and none was named")
    path, text = target[0], files[target[0]]
    span = span_of(text, path, target, find)
    if span is None:
        raise Refusal("unknown-function", f"no function {target[1]} in {path}")
    lines = text.split("\n")
    end = "\r" if lines[span.start].endswith("\r") else ""
    shown = _shown([line.removesuffix("\r") for line in lines], span)
    new: dict[int, list[str]] = {}
    for one in said:
        at = int(one[1])
        if not 1 <= at <= len(shown):
            raise Refusal("not-found", f"{target[1]} has {len(shown)} lines, so no line {at}")
        new.setdefault(at, []).extend([] if one[2] is None else [one[2]])
    body = [line for at, old in enumerate(shown, 1) for line in new.get(at, [old])]
    moved = indented(body, span.indent) if shown[0] != lines[span.start].removesuffix("\r") else body
    return Applied({path: "\n".join(lines[: span.start] + [line + end for line in moved] + lines[span.stop :])})


def _shown(lines: Sequence[str], span: Span) -> list[str]:
    return dedented(lines[span.start : span.stop]).removesuffix("\n").split("\n")
