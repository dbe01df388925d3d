"""Realistic bugs, as changes of a few characters in JavaScript or TypeScript; layout and comments are kept.

A text is parsed once; every kind of bug looks at the nodes it knows (`expressions`, `statements`) and proposes
replacements. Those that do not parse are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from loraplug_javascript.expressions import EXPRESSIONS, Kind, Proposal
from loraplug_javascript.statements import STATEMENTS
from loraplug_javascript.syntax import FUNCTIONS, Function, Grammar, Page, named, page
from loraplug_swe.mutation import Mutation

if TYPE_CHECKING:
    from tree_sitter import Node

KINDS = (
    "dropped_condition", "inverted_condition", "loose_equality", "missing_argument", "missing_await", "missing_flag",
    "missing_negation", "missing_optional_chain", "missing_return", "missing_spread", "missing_update", "off_by_one",
    "removed_call", "removed_guard", "removed_yield", "similar_name", "slice_boundary", "swapped_arguments",
    "swapped_branches", "wrong_comparison", "wrong_constant", "wrong_default", "wrong_fallback", "wrong_index",
    "wrong_loop_exit", "wrong_nullish", "wrong_operator", "wrong_order", "wrong_variable",
)  # fmt: skip
_TYPES = frozenset({
    "type_annotation", "type_arguments", "type_parameters", "interface_declaration", "type_alias_declaration",
    "import_statement", "decorator", "enum_declaration", "ambient_declaration", "as_expression_type",
})  # fmt: skip
_HEADED = frozenset({
    "if_statement", "for_statement", "for_in_statement", "while_statement", "do_statement", "try_statement",
    "switch_statement", "labeled_statement", "with_statement", "class_declaration",
})  # fmt: skip


def mutations(text: str, grammars: Sequence[Grammar]) -> list[Mutation]:
    """Every possible bug in the named functions of a file, in source order; none if it cannot be parsed."""
    if "\r" in text.replace("\r\n", "") or text.startswith("\ufeff") or "\u2028" in text or "\u2029" in text:
        return []  # what counts lines differently
    try:
        read = page(text, tuple(grammars))
    except SyntaxError:
        return []
    kinds: dict[str, list[Kind]] = {}
    for types, kind in (*EXPRESSIONS, *STATEMENTS):
        for one in types:
            kinds.setdefault(one, []).append(kind)
    owners = {one.node.id: one for one in named(read)}
    found = [
        _mutation(read, node, function, proposal)
        for node, function in _inside(read.tree.root_node, owners)
        for kind in kinds.get(node.type, ())
        for proposal in kind(read, node)
    ]
    return valid(read, found)


def valid(read: Page, found: Sequence[Mutation]) -> list[Mutation]:
    """Mutations that still parse, in source order, without duplicates."""
    seen: set[tuple[int, int, str]] = set()
    kept = []
    for one in sorted(found, key=lambda one: (one.start, one.stop, one.kind, one.replacement)):
        key = one.start, one.stop, one.replacement
        if key not in seen and read.valid(*key):
            seen.add(key)
            kept.append(one)
    return kept


def _inside(node: Node, owners: dict[int, Function], owner: Function | None = None) -> Iterator[tuple[Node, Function]]:
    """Nodes inside named functions, with the innermost such function."""
    waiting = [(node, owner)]
    while waiting:
        node, owner = waiting.pop()
        owner = owners.get(node.id, owner)
        if node.type in _TYPES:
            continue
        if owner is not None and node.id != owner.node.id:
            yield node, owner
        waiting += [(child, owner) for child in node.children if child.is_named]


def _mutation(read: Page, node: Node, function: Function, proposal: Proposal) -> Mutation:
    kind, start, stop, replacement, note = proposal
    first, last = read.at(start), read.at(stop)
    gone = read.text[first:last]
    begin = start + len(gone) - len(gone.lstrip())  # of whole lines, what is on them; white space is of one byte
    end = max(begin, stop - 1 - len(gone) + len(gone.rstrip()))
    changed = read.tree.root_node.descendant_for_byte_range(begin, end) or node
    place = statement_lines(changed if changed.type != "program" else node)
    return Mutation(kind, function.name, first, last, replacement, place, note)


def statement_lines(node: Node) -> tuple[int, int]:
    """First and last line, from 1, of what runs where a node does: its statement, or the head of one with a body."""
    at: Node | None = node
    while at is not None:
        if at.type in FUNCTIONS:
            body = at.child_by_field_name("body")
            last = body.start_point[0] if body is not None and body.type == "statement_block" else at.end_point[0]
            return at.start_point[0] + 1, last + 1
        if at.type in _HEADED:
            inner = [one.start_point[0] for one in at.named_children if one.type == "statement_block"]
            heads = [at.child_by_field_name("body"), at.child_by_field_name("consequence")]
            inner += [one.start_point[0] for one in heads if one is not None]
            return at.start_point[0] + 1, max(at.start_point[0], min(inner, default=at.end_point[0])) + 1
        if at.type.endswith(("_statement", "_declaration")) and at.type != "export_statement":
            return at.start_point[0] + 1, at.end_point[0] + 1
        at = at.parent
    return node.start_point[0] + 1, node.end_point[0] + 1
