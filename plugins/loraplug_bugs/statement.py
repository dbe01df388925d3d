"""A problem statement out of what a test said: what was expected, what came, and the way there. No word on the bug."""

from __future__ import annotations

from collections.abc import Sequence

from loraplug_bugs.language import Failure

_FRAMES = 6  # places of a traceback shown, the test's first
_OTHERS = 3  # further failing tests named
_LONG = 300


def problem_statement(failures: Sequence[Failure], mark: str = "python") -> str:
    """A report on the first failure, naming the others; `mark` is the language of code fences."""
    first = failures[0]
    name = first.test.rpartition("::")[2] or first.test
    out = [f"`{name}` fails with {first.error}."]
    if first.check:
        out += ["", f"```{mark}\n{_clip(first.check)}\n```"]
    if first.expected or first.actual:
        out.append("")
        if first.expected:
            out.append(f"Expected: {_clip(first.expected)}")
        if first.actual:
            out.append(f"Actual: {_clip(first.actual)}")
    elif first.message:
        out += ["", _clip(first.message.strip())]
    if len(first.trace) > 1 or not first.check:
        out += ["", "Traceback:", *_trace(first), f"{first.error}: {_one_line(first.message)}".rstrip(": ")]
    if others := [one.test for one in failures[1:]]:
        more = f" and {len(others) - _OTHERS} more" if len(others) > _OTHERS else ""
        out += ["", f"Also failing: {', '.join(others[:_OTHERS])}{more}"]
    return "\n".join([*out, "", f"Test: {first.test}"])


def _trace(failure: Failure) -> list[str]:
    frames = list(failure.trace)
    left_out = len(frames) - _FRAMES
    shown = frames if left_out <= 0 else [*frames[:2], None, *frames[2 - _FRAMES :]]
    return [
        f"  ... {left_out} more" if one is None else f"  {one[0]}:{one[1]} in {one[2]}: {one[3][:160]}" for one in shown
    ]


def _one_line(text: str) -> str:
    return _clip(text.strip().split("\n")[0])


def _clip(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."
