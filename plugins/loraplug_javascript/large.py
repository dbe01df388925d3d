"""Bugs of more than one statement: removed blocks, removed function bodies, pairs of small bugs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from loraplug_javascript.mutations import valid
from loraplug_javascript.syntax import FUNCTIONS, Grammar, Page, named, page
from loraplug_swe.mutation import Mutation, two_bugs

if TYPE_CHECKING:
    from tree_sitter import Node

LARGE_KINDS = ("removed_block", "removed_body", "two_bugs")
_COMPOUND = frozenset({
    "if_statement", "for_statement", "for_in_statement", "while_statement", "do_statement", "try_statement",
    "switch_statement",
})  # fmt: skip
_SIMPLE = frozenset({"expression_statement", "return_statement", "throw_statement"})
_RUN = 3  # simple statements in a row that go together, at most
_LONG = 3  # lines from which on a compound statement is a block


def large_mutations(text: str, small: Sequence[Mutation], grammars: Sequence[Grammar]) -> list[Mutation]:
    """Every large bug for the functions of a file, in source order; `small` are the file's small bugs."""
    if not small:  # as for files that cannot be read
        return []
    read = page(text, tuple(grammars))
    found = list(two_bugs(text, small))
    for function in named(read):
        body = function.node.child_by_field_name("body")
        if body is not None and body.type == "statement_block":
            found += [*_body(read, function.name, body), *_blocks(read, function.name, body)]
    return valid(read, found)


def _body(read: Page, name: str, body: Node) -> Iterator[Mutation]:
    """All that a function does."""
    first, last = body.start_point[0] + 1, body.end_point[0] - 1
    if last - first < 1 or not body.named_children:
        return
    start, stop = read.at(body.named_children[0].start_byte), read.at(body.named_children[-1].end_byte)
    yield Mutation("removed_body", name, start, stop, 'throw new Error("not implemented");',
                   (body.named_children[0].start_point[0] + 1, body.named_children[-1].end_point[0] + 1),
                   "the body is gone")  # fmt: skip


def _blocks(read: Page, name: str, block: Node) -> Iterator[Mutation]:
    """Compound statements, and simple statements in a row, in a block and those inside it."""
    inside = [one for one in block.named_children if one.type != "comment"]
    for at, one in enumerate(inside):
        if one.type in _COMPOUND and one.end_point[0] - one.start_point[0] + 1 >= _LONG:
            yield _gone(read, name, [one])
        for count in range(2, _RUN + 1):
            some = inside[at : at + count]
            rows = some[-1].end_point[0] - some[0].start_point[0]
            if len(some) == count < len(inside) and rows and all(each.type in _SIMPLE for each in some):
                yield _gone(read, name, some)
    for one in inside:
        for inner in _inner_blocks(one):
            yield from _blocks(read, name, inner)


def _inner_blocks(node: Node) -> Iterator[Node]:
    for child in node.named_children:
        if child.type == "statement_block":
            yield child
        elif child.type not in FUNCTIONS:
            yield from _inner_blocks(child)


def _gone(read: Page, name: str, some: Sequence[Node]) -> Mutation:
    start, stop = read.whole(some[0])[0], read.whole(some[-1])[1]
    first, last = some[0].start_point[0] + 1, some[-1].end_point[0] + 1
    begin = read.source(some[0]).split("\n")[0].strip()[:60]
    note = f"{last - first + 1} lines are gone, from `{begin}` on"
    return Mutation("removed_block", name, read.at(start), read.at(stop), "", (first, last), note)
