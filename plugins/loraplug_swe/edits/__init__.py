"""Answers as edits: four formats a model may write a change in, and how an answer of each becomes new files.

| format | an answer | applied by |
|---|---|---|
| `diff` | a unified diff as git writes it | the lines of each hunk, nearest to where its header says |
| `search-replace` | path, then lines to look for and lines to put there | the lines, which must be in the file once |
| `lines` | changed lines behind their numbers in the function | the numbers |
| `function` | the whole function as it should be | the function of that name |

`render` writes an answer, `apply` takes one, with or without a code fence and words around it. What `apply` refuses has
a reason that can be counted. It is lenient where the meaning is plain (white space at line ends, wrong line numbers)
and says so in `Applied.exact`.
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
