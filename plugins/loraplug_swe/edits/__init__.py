"""Answers as edits: the four formats of a change, and how an answer is applied to files.

| format | an answer | applied by |
|---|---|---|
| `diff` | a unified diff as git writes it | matching the lines of each hunk, nearest to its header's line number |
| `search-replace` | path, then lines to find and their replacement | matching the lines, which must occur once |
| `lines` | changed lines with their numbers in the function | line number |
| `function` | the whole corrected function | function name |

`render` writes an answer; `apply` applies one, with or without a code fence and surrounding text. A refusal carries a
reason code. `apply` tolerates unambiguous errors (white space at line ends, wrong line numbers) and then sets
`Applied.exact` to False.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loraplug_swe.edits.blocks import BLOCK, apply_blocks, render_blocks
from loraplug_swe.edits.diffs import HUNK, apply_diff, unified_diff
from loraplug_swe.edits.lines import LINE, apply_lines, numbered, render_lines
from loraplug_swe.edits.shared import Applied, Finder, Format, Reason, Refusal, Refused, Target
from loraplug_swe.edits.whole import apply_function, render_function
from loraplug_swe.mutation.functions import python_functions

__all__ = ["Applied", "Format", "Reason", "Refused", "apply", "numbered", "render", "unified_diff"]


def render(
    path: str,
    old: str,
    new: str,
    form: Format,
    find: Finder = python_functions,
    target: Target | None = None,
) -> str:
    """The answer that takes the file `path` from `old` to `new`, ending in a line feed.

    `target` and `find` are those of `apply`; where a target is given, blocks need only be plain inside it.

    Raises:
        ValueError: nothing differs, or for `lines` and `function`: the change is not inside one function.
    """
    if old == new:
        raise ValueError("nothing differs")
    if form == "diff":
        return unified_diff(path, old, new)
    if form == "search-replace":
        return render_blocks(path, old, new, target, find)
    if form == "lines":
        return render_lines(path, old, new, target, find)
    return render_function(old, new, find)


def apply(
    answer: str,
    files: Mapping[str, str],
    form: Format | None = None,
    target: Target | None = None,
    find: Finder = python_functions,
) -> Applied | Refused:
    """Apply an answer to `files`.

    Args:
        answer: the model's output.
        files: texts by path; the answer may change no others.
        form: the expected format; None detects it.
        target: path and qualified name of the function with the bug: decides between several matches.
        find: the functions of a text, for other languages.
    """
    if not answer.strip():
        return Refused("empty", "the answer is empty")
    answer = answer.replace("\r\n", "\n")
    ways: dict[Format, Callable[[], Applied]] = {
        "diff": lambda: apply_diff(answer, files, target, find),
        "search-replace": lambda: apply_blocks(answer, files, target, find),
        "lines": lambda: apply_lines(answer, files, target, find),
        "function": lambda: apply_function(answer, files, target, find),
    }
    try:
        done = ways[form or _looks_like(answer)]()
    except Refusal as refusal:
        return refusal.verdict
    changed = {path: text for path, text in done.files.items() if text != files[path]}
    return Applied(changed, done.exact) if changed else Refused("no-change", "the answer leaves all as it is")


def _looks_like(answer: str) -> Format:
    if BLOCK.search(answer):
        return "search-replace"
    if HUNK.search(answer):
        return "diff"
    return "lines" if LINE.search(answer) else "function"
