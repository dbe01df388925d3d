"""Writes a problem statement from a test failure: expected and actual values and the trace, nothing about the bug."""

from __future__ import annotations

import re
from collections.abc import Sequence

from loraplug_swe.mutation.language import Failure

_FRAMES = 6  # places of a traceback shown, the test's first
_OTHERS = 3  # further failing tests named
_LONG = 300
_BEFORE = 60  # characters shown before the first difference of two long values
_WHERE = re.compile(r"( \+ +)(?:where|and) +(<.+?>|\w+) = (.+)")


def problem_statement(failures: Sequence[Failure], mark: str = "python") -> str:
    """Describe the first failure and name the others; `mark` is the info string of code fences."""
    first = failures[0]
    name = first.test.rpartition("::")[2] or first.test
    out = [f"`{name}` fails." if first.error == "Failed" else f"`{name}` fails with {first.error}."]
    if first.check:
        out += ["", f"```{mark}\n{_clip(first.check)}\n```"]
    traced = len(first.trace) > 1 or not first.check
    last = f"{first.error}: {_one_line(first.message)}".rstrip(": ")
    if told := [line for line in _told(first) if not traced or line not in (f"Actual: {last}", first.message)]:
        out += ["", *told]
    if traced:
        out += ["", "Traceback:", *_trace(first), last]
    if others := [one.test for one in failures[1:]]:
        more = f" and {len(others) - _OTHERS} more" if len(others) > _OTHERS else ""
        out += ["", f"Also failing: {', '.join(others[:_OTHERS])}{more}"]
    return "\n".join([*out, "", f"Test: {first.test}"])


def _told(failure: Failure) -> list[str]:
    """What was expected and what came; both sides where that cannot be told; the message where they look the same."""
    pairs = ("Expected", failure.expected), ("Actual", failure.actual)
    if failure.left != failure.right:
        pairs = ("Left side", failure.left), ("Right side", failure.right)
    (first, one), (second, other) = pairs
    if one != other:
        one, other = _unlike(one, other)
        return [f"{name}: {text}" for name, text in ((first, one), (second, other)) if text]
    return [_clip(_named(failure.message.strip()))] if failure.message.strip() else []


def _unlike(one: str, other: str) -> tuple[str, str]:
    """Both cut to length, from where they differ if they are alike for long."""
    pairs = enumerate(zip(one, other, strict=False))
    same = next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))
    cut = same - _BEFORE if max(len(one), len(other)) > _LONG and same > _LONG // 2 else 0
    lead = "..." if cut else ""
    return _clip(lead + one[cut:]), _clip(lead + other[cut:])


def _named(message: str) -> str:
    """What pytest says of an assert, with expressions in place of functions and objects that read `<...>`.

    `where` and `and` lines tell what stands in the line above that is indented less.
    """
    lines = message.split("\n")
    for at in range(len(lines) - 1, 0, -1):  # the last first, as what it stands for may stand for something else
        if (found := _WHERE.fullmatch(lines[at])) is None:
            continue
        above = next(line for line in range(at - 1, -1, -1) if _depth(lines[line]) < found.end(1))
        head, name, tail = lines[above].partition(found[2])
        if name and name not in tail and (name.startswith("<") or tail.startswith("(")):  # no doubt what is meant
            lines[above] = f"{head}{found[3]}{tail}"
            del lines[at]
    return "\n".join(lines)


def _depth(line: str) -> int:
    found = _WHERE.fullmatch(line)
    return found.end(1) if found else 0


def _trace(failure: Failure) -> list[str]:
    frames = [
        one
        for at, one in enumerate(failure.trace)
        if not (
            at and one[2].startswith("<") and one[:2] == failure.trace[at - 1][:2]
        )  # a comprehension on its own line
    ]
    left_out = len(frames) - _FRAMES
    shown = frames if left_out <= 0 else [*frames[:2], None, *frames[2 - _FRAMES :]]
    return [
        f"  ... {left_out} more" if one is None else f"  {one[0]}:{one[1]} in {one[2]}: {one[3][:160]}" for one in shown
    ]


def _one_line(text: str) -> str:
    return _clip(text.strip().split("\n")[0])


def _clip(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."
