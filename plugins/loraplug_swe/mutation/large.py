"""Bugs of more than one statement: removed blocks, removed function bodies, pairs of small bugs."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence

from attrs import frozen

from loraplug_swe.mutation.functions import Span, python_functions
from loraplug_swe.mutation.language import Mutation
from loraplug_swe.mutation.pairs import two_bugs

LARGE_KINDS = ("removed_block", "removed_body", "two_bugs")
_RUN = 3  # simple statements in a row that go together, at most
_LONG = 3  # lines from which on a compound statement is a block
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def large_mutations(text: str, small: Sequence[Mutation]) -> list[Mutation]:
    """Every large bug for the functions of a file, in source order; `small` are the file's small bugs.

    What stays is as it was, comments between the statements that go excepted; each gives a file that is Python.
    """
    if not small:  # as for files that cannot be read
        return []
    page = _Page.of(text)
    found = [*_removed(page), *two_bugs(text, small)]
    found.sort(key=lambda one: (one.start, one.stop, one.kind, one.replacement))
    seen: set[tuple[int, int, str]] = set()
    kept = []
    for one in found:
        key = one.start, one.stop, one.replacement
        if key not in seen and _is_python(one.apply(text)):
            seen.add(key)
            kept.append(one)
    return kept


@frozen
class _Page:
    """A file's text, its lines' beginnings, and its functions by the line of their `def`, from 1."""

    text: str
    starts: Sequence[int]
    spans: dict[int, Span]

    @classmethod
    def of(cls, text: str) -> _Page:
        starts = [0]
        for line in text.split("\n"):
            starts.append(starts[-1] + len(line) + 1)
        return cls(text, starts, {span.definition + 1: span for span in python_functions(text)})

    def lines(self, first: int, last: int) -> tuple[int, int]:
        """Characters of these lines, from 1, with the last line feed."""
        return self.starts[first - 1], min(self.starts[last], len(self.text))

    def indent(self, line: int) -> str:
        """The white space a line begins with."""
        found = self.text[self.starts[line - 1] : self.starts[line]]
        return found[: len(found) - len(found.lstrip())]

    def end(self, stop: int) -> str:
        """The line feed before a character, where there is one."""
        before = self.text[:stop]
        return "\r\n" if before.endswith("\r\n") else "\n" if before.endswith("\n") else ""


def _removed(page: _Page) -> Iterator[Mutation]:
    for node in ast.walk(ast.parse(page.text)):
        span = page.spans.get(node.lineno) if isinstance(node, _Function) else None
        if isinstance(node, _Function) and span is not None and span.name.rpartition(".")[2] == node.name:
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            if body and body[0].lineno > node.lineno:
                yield from _body(page, span.name, body)
                yield from _blocks(page, span.name, body)


def _body(page: _Page, function: str, body: Sequence[ast.stmt]) -> Iterator[Mutation]:
    """All that a function does, but for its docstring."""
    first, last = _first(body[0]), _last(body[-1])
    if last - first + 1 >= 2:
        start, stop = page.lines(first, last)
        instead = f"{page.indent(first)}raise NotImplementedError{page.end(stop)}"
        yield Mutation("removed_body", function, start, stop, instead, (first, last), "the body is gone")


def _blocks(page: _Page, function: str, body: Sequence[ast.stmt]) -> Iterator[Mutation]:
    """Compound statements, and simple statements in a row, in a block and those inside it."""
    for at, one in enumerate(body):
        if isinstance(one, ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try | ast.If):
            if _last(one) - _first(one) + 1 >= _LONG:
                yield from _gone(page, function, body, at, at + 1)
            for inner in _inside(one):
                if inner[0].lineno > one.lineno and not _is_elif(page, inner):
                    yield from _blocks(page, function, inner)
        for count in range(2, _RUN + 1):
            some = body[at : at + count]
            if len(some) == count and count < len(body) and all(map(_is_simple, some)):
                yield from _gone(page, function, body, at, at + count)


def _gone(page: _Page, function: str, body: Sequence[ast.stmt], begin: int, end: int) -> Iterator[Mutation]:
    first, last = _first(body[begin]), _last(body[end - 1])
    beside = [_last(body[begin - 1])] if begin else []
    beside += [_first(body[end])] if end < len(body) else []
    if first in beside or last in beside:  # several statements on one line
        return
    start, stop = page.lines(first, last)
    instead = f"{page.indent(first)}pass{page.end(stop)}" if end - begin == len(body) else ""
    note = f"{last - first + 1} lines are gone, from `{page.text[start:stop].strip().splitlines()[0][:60]}` on"
    yield Mutation("removed_block", function, start, stop, instead, (first, last), note)


def _inside(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        if found := getattr(node, name, None):
            yield found
    for handler in getattr(node, "handlers", ()):
        yield handler.body


def _is_elif(page: _Page, body: Sequence[ast.stmt]) -> bool:
    line = page.text[page.starts[body[0].lineno - 1] :]
    return line.lstrip().startswith("elif")


def _is_simple(one: ast.stmt) -> bool:
    return isinstance(one, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr | ast.Return | ast.Raise | ast.Assert)


def _first(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])


def _last(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _is_python(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True
