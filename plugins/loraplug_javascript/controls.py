"""Control tests: copies of test files, under random names, whose checks expect something else."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from loraplug_javascript.reports import files_of
from loraplug_javascript.syntax import Grammar, Page, page
from loraplug_swe.sandbox import Controls

if TYPE_CHECKING:
    from tree_sitter import Node

_MOST_FILES = 3  # of which there are copies
_ASSERTS = frozenset({"equal", "strictEqual", "deepEqual", "deepStrictEqual"})
_MATCHERS = frozenset({"toBe", "toEqual", "toStrictEqual"})
_HELPER = """
function {name}(value) {{
  if (typeof value === "boolean") return !value;
  if (typeof value === "number") return Number.isFinite(value) ? value + {number} : {number};
  if (typeof value === "string") return value + "{word}";
  if (Array.isArray(value)) return [...value, {number}];
  return {{ {name}: {number} }};
}}
"""
_ENDING = re.compile(r"((?:[.\-_](?:test|spec))?\.[cm]?[jt]sx?)$")


def controls(
    texts: Mapping[str, str], tests: Sequence[str], draw: random.Random, grammars: Sequence[Grammar]
) -> Controls:
    """Controls for test ids, `path::suite > test`: copies of these tests, plus one per file that always fails.

    Args:
        texts: test files by path.
        draw: random generator for names and values.
    """
    files: dict[str, str] = {}
    ids: dict[str, str] = {}
    for path, names in list(files_of(tests).items())[:_MOST_FILES]:
        place = PurePosixPath(path)
        ending = match[1] if (match := _ENDING.search(place.name)) else place.suffix
        ending = ending if ending.count(".") > 1 or "-" in ending or "_" in ending else f".test{ending}"
        word, other = (f"x{draw.getrandbits(64):016x}" for _ in range(2))
        plain = str(place.with_name(f"{other}{ending}"))
        files[plain] = f'throw new Error("{other}");\n'
        ids[plain] = ""
        text = _changed(texts[path], word, draw, grammars) if path in texts else None
        if text is not None:
            copy = str(place.with_name(f"{word}{ending}"))
            files[copy] = text
            ids |= {f"{copy}::{name}": f"{path}::{name}" for name in names}
    return Controls(files, ids)


def _changed(text: str, word: str, draw: random.Random, grammars: Sequence[Grammar]) -> str | None:
    """The file with what its tests compare with changed; None where there is nothing of the kind, or no reading it."""
    try:
        read = page(text, tuple(grammars))
    except SyntaxError:
        return None
    name, number = f"other_{word}", draw.randrange(1_000, 1_000_000)
    places = sorted(_expected(read, read.tree.root_node), key=lambda one: -one.start_byte)
    for node in places:
        start, stop = read.at(node.start_byte), read.at(node.end_byte)
        text = f"{text[:start]}{name}({text[start:stop]}){text[stop:]}"
    return text + _HELPER.format(name=name, number=number, word=word) if places else None


def _expected(read: Page, root: Node) -> Iterator[Node]:
    """What is expected in `assert.equal(a, b)` and `expect(a).toBe(b)`: b."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.type == "call_expression" and (found := _argument(read, node)) is not None:
            yield found
        else:
            waiting += node.named_children


def _argument(read: Page, node: Node) -> Node | None:
    function, given = node.child_by_field_name("function"), node.child_by_field_name("arguments")
    if function is None or given is None or given.type != "arguments":
        return None
    listed = [one for one in given.named_children if one.type != "comment"]
    name = function.child_by_field_name("property") or function
    word = read.source(name)
    if word in _MATCHERS and listed and not re.search(r"\.not\b", read.source(function)):
        return listed[0]
    return listed[1] if word in _ASSERTS and len(listed) > 1 else None
