"""Search/replace blocks: the lines to find, and their replacement."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from loraplug_swe.edits.changes import Change, changes
from loraplug_swe.edits.shared import Applied, Finder, Refusal, Target, only_file, replaced, span_of

BLOCK = re.compile(
    r"^<{5,9} ?SEARCH[ \t]*\n(?P<old>.*?)^={5,9}[ \t]*\n(?P<new>.*?)^>{5,9} ?REPLACE[ \t]*$", re.DOTALL | re.MULTILINE
)


def render_blocks(path: str, old: str, new: str, target: Target | None, find: Finder) -> str:
    """Blocks with the fewest unchanged lines around each change that make it unambiguous, preferably before it."""
    before, after = old.removesuffix("\n").split("\n"), new.removesuffix("\n").split("\n")
    changed = changes(before, after)
    for more in range(2 * len(before) + 1):
        for above in range(more, more // 2 - 1, -1):
            blocks = f"{path}\n"
            for start, stop, new_start, new_stop in _widened(changed, above, more - above, len(before)):
                sides = before[start:stop], after[new_start:new_stop]
                blocks += "\n".join(["<<<<<<< SEARCH", *sides[0], "=======", *sides[1], ">>>>>>> REPLACE", ""])
            with suppress(Refusal):
                if apply_blocks(blocks, {path: old}, target, find) == Applied({path: new}):
                    return blocks
    raise ValueError(
        "the change cannot be written as blocks: lines look like markers, or only the last line feed changes"
    )


def _widened(changed: Sequence[Change], above: int, below: int, end: int) -> list[Change]:
    """Changed line ranges of both sides with so many lines round them; those that meet become one."""
    found: list[Change] = []
    for start, stop, new_start, new_stop in changed:
        up, down = min(above, start), min(below, end - stop)
        one = (start - up, stop + down, new_start - up, new_stop + down)
        if found and one[0] < found[-1][1]:
            last = found.pop()
            one = (last[0], max(last[1], one[1]), last[2], max(last[3], one[3]))
        found.append(one)
    return found


def apply_blocks(answer: str, files: Mapping[str, str], target: Target | None, find: Finder) -> Applied:
    """New texts of the files that blocks change; raises Refusal."""
    texts, exact, last = dict(files), True, 0
    blocks = list(BLOCK.finditer(answer))
    if not blocks:
        raise Refusal("no-edit", "no block of <<<<<<< SEARCH, =======, >>>>>>> REPLACE")
    path: str | None = None
    for block in blocks:
        path = _named(answer[last : block.start()], files) or path or only_file(files, target)
        last = block.end()
        old, new = block["old"].split("\n")[:-1], block["new"].split("\n")[:-1]
        texts[path], strict = replaced(path, texts[path], old, new, span_of(texts[path], path, target, find), None)
        exact = exact and strict
    return Applied(texts, exact)


def _named(words: str, files: Mapping[str, str]) -> str | None:
    """The file that the words before a block name, on a line of its own or after `file:`."""
    for line in reversed(words.splitlines()):
        bare = line.strip().strip("`*#: ").removeprefix("File:").removeprefix("file:").strip("`* ")
        if bare.removeprefix("./") in files:
            return bare.removeprefix("./")
        if re.fullmatch(r"[\w./+-]+\.\w{1,5}", bare):
            raise Refusal("unknown-file", f"{bare} is not among the files")
    return None
