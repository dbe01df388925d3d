"""Parsing JavaScript and TypeScript: grammars, positions, and the functions of a text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from attrs import frozen

from loraplug import InputError
from loraplug_swe.mutation import Span

if TYPE_CHECKING:
    from tree_sitter import Node, Parser, Tree

INSTALL = 'pip install "tree-sitter>=0.25" "tree-sitter-javascript>=0.25" "tree-sitter-typescript>=0.23"'

Grammar = str
FUNCTIONS = frozenset({
    "function_declaration", "generator_function_declaration", "function_expression", "generator_function",
    "arrow_function", "method_definition",
})  # fmt: skip
_STATEMENTS = frozenset({
    "expression_statement", "return_statement", "throw_statement", "lexical_declaration", "variable_declaration",
})  # fmt: skip
CLASSES = frozenset({"class_declaration", "class", "abstract_class_declaration"})
_WRAPPINGS = (("", ""), ("class _ {", "}"), ("({", "})"))  # a method alone is no program
_EXPORTS = frozenset({"exports", "module.exports", "this"})


@lru_cache(4)
def parser(grammar: Grammar) -> Parser:
    """The parser of `javascript`, `typescript` or `tsx`.

    Raises:
        InputError: tree-sitter is not installed.
    """
    try:
        import tree_sitter
        import tree_sitter_javascript
        import tree_sitter_typescript
    except ImportError:
        raise InputError("tree-sitter, which reads JavaScript, is not installed", where="dataset.language",
                         todo=INSTALL) from None  # fmt: skip
    made = {"javascript": tree_sitter_javascript.language, "typescript": tree_sitter_typescript.language_typescript,
            "tsx": tree_sitter_typescript.language_tsx}[grammar]  # fmt: skip
    return tree_sitter.Parser(tree_sitter.Language(made()))


class Page:
    """A text and its tree; all places of nodes are bytes of UTF-8, all those of the page characters.

    Attributes:
        text: as it was given.
        grammar: the first grammar that parses it without an error.
    """

    def __init__(self, text: str, grammar: Grammar, tree: Tree, lead: int = 0) -> None:
        self.text, self.grammar, self.tree, self._lead = text, grammar, tree, lead
        self._bytes = text.encode()
        self._plain = len(self._bytes) == len(text)
        self._starts = [0] if self._plain else [0, *accumulate(len(char.encode()) for char in text)]
        self.lines = text.split("\n")

    def at(self, byte: int) -> int:
        """The character that a byte of the tree begins."""
        byte -= self._lead
        return byte if self._plain else bisect_right(self._starts, byte) - 1

    def source(self, node: Node) -> str:
        """The text of a node."""
        return node.text.decode() if node.text is not None else ""

    def indent(self, line: int) -> str:
        """The white space that a line, from 0, begins with."""
        found = self.lines[line]
        return found[: len(found) - len(found.lstrip())]

    def whole(self, node: Node) -> tuple[int, int]:
        """Bytes of the lines of a node where it is alone on them, with the line feed; else of the node."""
        (first, column), (last, end) = node.start_point, node.end_point
        rows = self._bytes.split(b"\n")
        if self._lead or rows[first][:column].strip() or rows[last][end:].strip() or last + 1 == len(rows):
            return node.start_byte, node.end_byte
        return node.start_byte - column, node.end_byte + len(rows[last]) - end + 1

    def valid(self, start: int, stop: int, replacement: str) -> bool:
        """Whether the text still is of the grammar with other characters in place of some."""
        first, last = (len(self.text[:at].encode()) for at in (start, stop))
        new = replacement.encode()
        tree = self.tree.copy()
        before = self.text[:start]
        row, column = before.count("\n"), len(before.rpartition("\n")[2].encode())
        gone = self.text[start:stop]
        tree.edit(first, last, first + len(new), (row, column), _end(row, column, gone), _end(row, column, replacement))
        made = parser(self.grammar).parse(self._bytes[:first] + new + self._bytes[last:], tree)
        return not made.root_node.has_error


def _end(row: int, column: int, text: str) -> tuple[int, int]:
    rows = text.count("\n")
    return row + rows, len(text.rpartition("\n")[2].encode()) + (0 if rows else column)


@lru_cache(maxsize=16)  # an answer is tried many ways on one text
def page(text: str, grammars: Sequence[Grammar]) -> Page:
    """The page of a program, or of a method or property alone.

    Raises:
        SyntaxError: no grammar parses it.
    """
    worst = 0
    for before, after in _WRAPPINGS:
        for grammar in grammars:
            tree = parser(grammar).parse(f"{before}{text}\n{after}".encode() if before else text.encode())
            if not tree.root_node.has_error and (before or not _is_method(tree.root_node)):
                return Page(text, grammar, tree, len(before))
            worst = worst or _first_error(tree.root_node)
    raise SyntaxError("not JavaScript", ("", worst, 1, ""))


def _is_method(root: Node) -> bool:
    """Whether it reads `f(a) {`, which the grammars take for a call and a block."""
    return any(
        one.type == "expression_statement" and other.type == "statement_block"
        and one.end_point[0] == other.start_point[0] and not (one.text or b"").endswith(b";")
        for one, other in pairwise(root.named_children)
    )  # fmt: skip


def _first_error(node: Node) -> int:
    while True:
        inner = next((one for one in node.children if one.has_error or one.is_missing), None)
        if inner is None or node.is_error:
            return int(node.start_point[0]) + 1
        node = inner


@frozen
class Function:
    """A function with a name; `whole` is the statement, method or property that it is all of."""

    name: str
    node: Node
    whole: Node


def named(page: Page) -> Iterator[Function]:
    """All functions that have a name of their own, in the order of the text."""
    yield from _named(page, page.tree.root_node, "")


def _named(page: Page, node: Node, prefix: str) -> Iterator[Function]:
    for child in node.named_children:
        inner = prefix
        if child.type in FUNCTIONS and (found := _name(page, child)) is not None:
            name, whole = found
            yield Function(prefix + name, child, whole)
            inner = f"{prefix}{name}."
        elif child.type in CLASSES or child.type == "object":
            name = _class_name(page, child)
            inner = f"{prefix}{name}." if name and name != "_" else prefix
        yield from _named(page, child, inner)


def _name(page: Page, node: Node) -> tuple[str, Node] | None:
    name, parent = node.child_by_field_name("name"), node.parent
    if parent is None:
        return None
    if node.type == "method_definition":
        key = _key(page, name)
        kind = next((page.source(one) for one in node.children if one.type in ("get", "set")), "")
        return None if key is None else (f"{kind} {key}".strip(), node)
    if node.type in ("function_declaration", "generator_function_declaration"):
        return None if name is None else (page.source(name), _exported(node))
    if parent.type == "variable_declarator":
        target, statement = parent.child_by_field_name("name"), parent.parent
        alone = statement is not None and len([one for one in statement.named_children if one.type == parent.type]) == 1
        if target is None or target.type != "identifier" or statement is None:
            return None
        return page.source(target), _exported(statement) if alone else parent
    if parent.type == "assignment_expression" and parent.child_by_field_name("right") == node:
        above = parent.parent
        whole = above if above is not None and above.type == "expression_statement" else parent
        key = _assigned(page, parent.child_by_field_name("left"))
        return None if key is None else (key, whole)
    if parent.type == "pair":
        key = _key(page, parent.child_by_field_name("key"))
        return None if key is None else (key, parent)
    if parent.type in ("field_definition", "public_field_definition"):
        key = _key(page, parent.child_by_field_name("property") or parent.child_by_field_name("name"))
        return None if key is None else (key, parent)
    if parent.type == "export_statement":
        return ("default", parent)
    return None


def _exported(node: Node) -> Node:
    above = node.parent
    return above if above is not None and above.type == "export_statement" else node


def _key(page: Page, node: Node | None) -> str | None:
    """The name of a property; `@@iterator` for [Symbol.iterator], None where it is worked out or odd."""
    if node is None:
        return None
    text = page.source(node).strip("[]\"'").replace("Symbol.", "@@")
    return text if text and not set(text) & set(". \t\n`()") else None


def _assigned(page: Page, node: Node | None) -> str | None:
    """`f` of `exports.f`, `A#f` of `A.prototype.f`, `a#f` of `a.f`."""
    if node is None or node.type not in ("identifier", "member_expression"):
        return None
    text = page.source(node)
    if text == "module.exports":
        return "exports"
    owner, _, name = text.rpartition(".")
    owner = owner.removesuffix(".prototype")
    if not name.isidentifier() and not name.startswith(("#", "$")):
        return None
    return name if not owner or owner in _EXPORTS or not owner.isidentifier() else f"{owner}#{name}"


def _class_name(page: Page, node: Node) -> str:
    name, parent = node.child_by_field_name("name"), node.parent
    if name is not None:
        return page.source(name)
    if parent is not None and parent.type == "variable_declarator":
        target = parent.child_by_field_name("name")
        if target is not None and target.type == "identifier":
            return page.source(target)
    return ""


def functions(text: str, grammars: Sequence[Grammar]) -> tuple[Span, ...]:
    """All functions with a name, in the order of the text; of several of one name the last has the name.

    Raises:
        SyntaxError: no grammar parses the text.
    """
    read = page(text, tuple(grammars))
    found: dict[str, Span] = {}
    for one in named(read):
        first, last = one.whole.start_point[0], one.whole.end_point[0]
        found.pop(one.name, None)
        found[one.name] = Span(one.name, first, last + 1, read.indent(first), one.node.start_point[0])
    return tuple(found.values())


def statement_at(text: str, line: int, grammars: Sequence[Grammar]) -> str:
    """The innermost statement on a line, from 1; "" where there is none, or no reading the text."""
    try:
        read = page(text, tuple(grammars))
    except SyntaxError:
        return ""
    best, waiting = None, [read.tree.root_node]
    while waiting:
        node = waiting.pop()
        if not node.start_point[0] < line <= node.end_point[0] + 1:
            continue
        if node.type in _STATEMENTS and (
            best is None or best.end_byte - best.start_byte > node.end_byte - node.start_byte
        ):
            best = node
        waiting += node.named_children
    return "" if best is None else read.source(best)
