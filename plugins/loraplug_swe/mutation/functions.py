"""Finds the functions of a source text, and indents and dedents their lines."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import lru_cache

from attrs import frozen


@frozen
class Span:
    """A function: its qualified name (`Class.method`, `outer.inner`) and its lines from 0, decorators included.

    Attributes:
        start, stop: first line, and the line after the last.
        indent: the white space before `def`.
        definition: line of the `def`, from 0.
    """

    name: str
    start: int
    stop: int
    indent: str
    definition: int


@lru_cache(maxsize=16)  # an answer is tried many ways on one text
def python_functions(text: str) -> tuple[Span, ...]:
    """All functions in source order; among several of one name (overloads, redefinitions) the last is used.

    Raises:
        SyntaxError: `text` is not Python.
    """
    lines = text.split("\n")
    found: dict[str, Span] = {}
    for name, node in _definitions(ast.parse(text), ""):
        start = min([node.lineno, *(one.lineno for one in node.decorator_list)]) - 1
        line = lines[node.lineno - 1]
        found.pop(name, None)
        found[name] = Span(
            name, start, node.end_lineno or node.lineno, line[: len(line) - len(line.lstrip())], node.lineno - 1
        )
    return tuple(found.values())


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _definitions(child, f"{prefix}{child.name}.")
        else:
            yield from _definitions(child, prefix)


def dedented(lines: Sequence[str]) -> str:
    """Lines without the indentation of the first, ending in a line feed; unchanged if a line is indented less."""
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    out = [line.removeprefix(indent) for line in lines]
    if indent and indented(out, indent) != list(lines):
        out = list(lines)
    return "\n".join(out) + "\n"


def indented(lines: Sequence[str], indent: str) -> list[str]:
    """Indent lines by `indent`; empty lines stay empty."""
    have = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    if not indent.startswith(have):
        return list(lines)
    more = indent.removeprefix(have)
    return [more + line if line else line for line in lines]
