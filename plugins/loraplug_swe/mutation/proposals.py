"""Realistic bugs as changes of a few characters in Python source; layout and comments are kept.

A file is parsed by libcst once; every kind of bug looks at the nodes it knows (`kinds_expressions`,
`kinds_statements`) and proposes replacements for the characters of a node. What is not valid Python is left out.
"""

from __future__ import annotations

import ast
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider, WhitespaceInclusivePositionProvider

from loraplug_swe.mutation.language import Mutation

Kind = Callable[["Site", Any], Iterator[tuple[str, int, int, str, str]]]
_Function = tuple[str, tuple[int, int], frozenset[str]]


class Site:
    """Source positions and texts for the kinds of bugs."""

    def __init__(self, text: str) -> None:
        wrapper = MetadataWrapper(cst.parse_module(text), unsafe_skip_copy=True)
        self.module, self.text = wrapper.module, text
        self._inner = wrapper.resolve(PositionProvider)
        self._outer = wrapper.resolve(WhitespaceInclusivePositionProvider)
        self._starts = [0]
        for line in text.split("\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)
        self.functions: list[_Function] = []
        self.first_use: dict[str, int] = {}  # where each name of the function is first bound

    def span(self, node: cst.CSTNode) -> tuple[int, int]:
        """Characters of a node without its own parentheses and comments."""
        return self._offsets(self._inner[node])

    def whole(self, node: cst.CSTNode) -> tuple[int, int]:
        """Characters of an expression with its parentheses."""
        return self._offsets(self._outer[node])

    def source(self, node: cst.CSTNode) -> str:
        """The text of an expression with its parentheses."""
        start, stop = self.whole(node)
        return self.text[start:stop]

    def lines(self, node: cst.CSTNode) -> tuple[int, int]:
        """First and last line of a node, from 1."""
        place = self._inner[node]
        return place.start.line, place.end.line

    def whole_lines(self, node: cst.CSTNode) -> tuple[int, int]:
        """Characters of all lines a statement is on, with the comment behind it and the line feed."""
        return self.whole_range(*self.lines(node))

    def line(self, at: int) -> int:
        """The line, from 1, of a character."""
        return bisect_right(self._starts, at)

    def whole_range(self, first: int, last: int) -> tuple[int, int]:
        """Characters of the lines `first` to `last`, from 1."""
        return self._starts[first - 1], min(self._starts[last], len(self.text))

    def block(self, body: cst.BaseSuite) -> tuple[int, int] | None:
        """Characters of the statements of an indented block, all lines whole; None for `if x: y` on one line."""
        if not isinstance(body, cst.IndentedBlock) or not body.body:
            return None
        return self.whole_lines(body.body[0])[0], self.whole_lines(body.body[-1])[1]

    def _offsets(self, place: Any) -> tuple[int, int]:
        return (self._starts[place.start.line - 1] + place.start.column,
                self._starts[place.end.line - 1] + place.end.column)  # fmt: skip


def python_mutations(text: str) -> list[Mutation]:
    """Every possible bug in the functions of a file, in source order; none if libcst cannot parse it."""
    if "\r" in text.replace("\r\n", "") or "\f" in text or text.startswith("\ufeff"):
        return []  # libcst and everybody else count their lines differently
    try:
        site = Site(text)
    except cst.ParserSyntaxError:
        return []
    finder = _Finder(site)
    site.module.visit(finder)
    seen: set[tuple[int, int, str]] = set()
    found = []
    for one, (first, last) in sorted(
        finder.mutations(), key=lambda pair: (pair[0].start, pair[0].stop, pair[0].kind, pair[0].replacement)
    ):
        key = (one.start, one.stop, one.replacement)
        if key not in seen and _valid(text, one, *site.whole_range(first, last)):
            seen.add(key)
            found.append(one)
    return found


def _valid(text: str, one: Mutation, start: int, stop: int) -> bool:
    """Whether the outermost function at these characters is still Python with the bug in it."""
    function = one.apply(text)[start : stop + len(one.replacement) - (one.stop - one.start)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(f"if True:\n{function}" if function[0] in " \t" else function)
    except (SyntaxError, ValueError):
        return False
    return True


class _Finder(cst.CSTVisitor):
    """Walks all functions of a module and asks every kind."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        from loraplug_swe.mutation.expressions import EXPRESSIONS
        from loraplug_swe.mutation.statements import STATEMENTS

        self.site = site
        self.found: list[tuple[tuple[str, int, int, str, str], str, tuple[int, int]]] = []
        self._kinds: dict[type[cst.CSTNode], list[Kind]] = {}
        for node_types, kind in (*EXPRESSIONS, *STATEMENTS):
            for node_type in node_types:
                self._kinds.setdefault(node_type, []).append(kind)
        self._names: list[str] = []
        self._statement: dict[int, tuple[int, int]] = {}  # line to the lines of the innermost statement on it

    def on_visit(self, node: cst.CSTNode) -> bool:
        """See CSTVisitor; False for what is not looked at: annotations, decorators, parameters."""
        if isinstance(
            node,
            cst.Annotation | cst.Decorator | cst.Parameters | cst.Import | cst.ImportFrom | cst.Global | cst.Nonlocal,
        ):
            return False
        if isinstance(node, cst.ClassDef):
            self._names.append(node.name.value)
        elif isinstance(node, cst.FunctionDef):
            self._names.append(node.name.value)
            first, last = self.site.lines(node)
            self.site.functions.append((".".join(self._names), (first, last), parameters(node)))
            inside = self.site.lines(node.body)  # what the tests run that could notice another signature
            self._statement |= dict.fromkeys(range(first, inside[0]), inside)
            self._propose(node)
        elif self.site.functions:
            if isinstance(node, cst.SimpleStatementLine):
                self._note(*self.site.lines(node))
            elif isinstance(node, cst.BaseCompoundStatement):
                first = self.site.lines(node)[0]
                self._note(first, max(first, self.site.lines(node.body)[0] - 1))
            self._propose(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        """See CSTVisitor."""
        if isinstance(original_node, cst.ClassDef):
            self._names.pop()
        elif isinstance(original_node, cst.FunctionDef):
            self._names.pop()
            self.site.functions.pop()

    def _note(self, first: int, last: int) -> None:
        self._statement |= dict.fromkeys(range(first, last + 1), (first, last))

    def mutations(self) -> Iterator[tuple[Mutation, tuple[int, int]]]:
        """All proposals, each with the lines of its outermost function."""
        for (name, start, stop, replacement, note), function, outermost in self.found:
            line = self.site.line(start)
            yield (
                Mutation(name, function, start, stop, replacement, self._statement.get(line, (line, line)), note),
                outermost,
            )

    def _propose(self, node: cst.CSTNode) -> None:
        for kind in self._kinds.get(type(node), ()):
            for proposal in kind(self.site, node):
                self.found.append((proposal, self.site.functions[-1][0], self.site.functions[0][1]))


def parameters(node: cst.FunctionDef) -> frozenset[str]:
    """Names of a function's parameters except self and cls."""
    listed: Sequence[cst.Param] = (*node.params.posonly_params, *node.params.params, *node.params.kwonly_params)
    return frozenset(one.name.value for one in listed) - {"self", "cls"}
