"""Control tests: copies of tests, under random names, that must fail wherever the tests themselves pass.

Expected values are changed in the copies. An answer that manipulates the runner, equality, or the values expected in
the test's source makes the copy pass as well, and is thus detected. One more control always fails.
"""

from __future__ import annotations

import ast
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from attrs import frozen

from loraplug_swe.mutation.language import Failure, Outcome, Report

_MOST_FILES = 3  # of which there are copies
_HELPER = '''

def {name}(value):
    """Something of the same type that is not equal."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + {number}
    if isinstance(value, str):
        return value + "{word}"
    if isinstance(value, bytes):
        return value + b"{word}"
    if isinstance(value, list):
        return [*value, {number}]
    if isinstance(value, tuple):
        return (*value, {number})
    if isinstance(value, dict):
        return {{**value, "{word}": {number}}}
    return object()


def test_{word}():
    assert {number} == {other}
'''


@frozen
class Controls:
    """Control tests to write beside the others.

    Attributes:
        files: new files by path.
        ids: the tests that must fail, mapped to the tests they are copies of; "" if not a copy.
    """

    files: Mapping[str, str]
    ids: Mapping[str, str]


def python_controls(texts: Mapping[str, str], tests: Sequence[str], draw: random.Random) -> Controls:
    """Controls for pytest's test ids, `path::Class::function[parameters]`.

    Args:
        texts: test files by path.
        draw: random generator for names and values.
    """
    files: dict[str, str] = {}
    ids: dict[str, str] = {}
    by_file: dict[str, list[str]] = {}
    for test in tests:
        by_file.setdefault(test.partition("::")[0], []).append(test)
    for path, its in list(by_file.items())[:_MOST_FILES]:
        word = f"{draw.getrandbits(64):016x}"
        copy = str(PurePosixPath(path).with_name(f"test_{word}.py"))
        text = _changed(texts[path], [test.partition("::")[2] for test in its], word, draw) if path in texts else None
        if text is not None:
            ids |= {f"{copy}::{test.partition('::')[2]}": test for test in its}
        files[copy] = (text or "") + _helper(word, draw)
        ids[f"{copy}::test_{word}"] = ""
    return Controls(files, ids)


def judged(report: Report, tests: Sequence[str], controls: Iterable[str]) -> Outcome:
    """The outcome of a report of tests and their controls.

    `void` if a control did not fail, or the exit code contradicts the report.
    """
    controls = set(controls)
    failed = [test for test in tests if report.outcomes.get(test) == "failed"]
    failures = [failure for failure in report.failures if failure.test not in controls]
    counts = Counter(how for test, how in report.outcomes.items() if test not in controls)

    def void(why: str) -> Outcome:
        return Outcome("void", [Failure("", "", why)], report.seconds)

    if passing := sum(report.outcomes.get(one) == "passed" for one in controls):
        return void(f"{passing} control tests pass, and they must fail")
    if report.exit != report.code:
        return void(f"the process exited with {report.exit}, its report says {report.code}")
    if failed:
        return Outcome("failed", failures, report.seconds, counts)
    if any(report.outcomes.get(test) != "passed" for test in tests):
        return Outcome("broken", failures, report.seconds)
    if any(report.outcomes.get(one) != "failed" for one in controls) or report.code != bool(controls):
        return void("control tests did not run")
    return Outcome("passed", seconds=report.seconds, counts=counts)


def _helper(word: str, draw: random.Random) -> str:
    number = draw.randrange(1_000, 1_000_000)
    return _HELPER.format(name=f"other_{word}", number=number, word=word, other=number + draw.randrange(1, 1_000))


def _changed(text: str, tests: Sequence[str], word: str, draw: random.Random) -> str | None:
    """The file with what these tests compare with changed, or None where it cannot be read."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None
    wanted = {tuple(test.partition("[")[0].split("::")) for test in tests}
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    tree.body = [one for one in tree.body if not _idle(one, named, wanted)]
    _visit(tree, (), wanted, word, draw)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _idle(node: ast.stmt, named: set[str], wanted: set[tuple[str, ...]]) -> bool:
    """Whether it is a test that is not wanted, and that nothing else in the file speaks of."""
    return (
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test")
        and node.name not in named
        and (node.name,) not in wanted
    )


def _visit(node: Any, at: tuple[str, ...], wanted: set[tuple[str, ...]], word: str, draw: random.Random) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            _visit(child, (*at, child.name), wanted, word, draw)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            if (*at, child.name) in wanted:
                _spoil(child, word, draw)
        else:
            _visit(child, at, wanted, word, draw)


def _spoil(function: ast.FunctionDef | ast.AsyncFunctionDef, word: str, draw: random.Random) -> None:
    """Make a test fail where it passed: by other expectations, else by turning its asserts round, else at its end."""
    spoiler = _Spoiler(word, draw)
    spoiler.generic_visit(function)
    if not spoiler.changed:
        asserts = [one for one in ast.walk(function) if isinstance(one, ast.Assert)]
        for one in asserts:
            one.test = ast.UnaryOp(ast.Not(), one.test)
        if not asserts:
            function.body.append(
                ast.parse(f"assert {draw.randrange(10, 999)} == {draw.randrange(1_000, 9_999)}").body[0]
            )


class _Spoiler(ast.NodeTransformer):
    def __init__(self, word: str, draw: random.Random) -> None:
        self._name, self._draw = f"other_{word}", draw
        self.changed = False

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            left, right = test.left, test.comparators[0]
            if _literal(left) and not _literal(right):
                test.left = self._other(left)
            else:
                test.comparators[0] = self._other(right)
            self.changed = True
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in ("assertEqual", "assertEquals")
            and len(node.args) > 1
        ):
            at = 0 if _literal(node.args[0]) and not _literal(node.args[1]) else 1
            node.args[at] = self._other(node.args[at])
            self.changed = True
            return node
        return self.generic_visit(node)

    def _other(self, expected: ast.expr) -> ast.expr:
        """Another value in its place; written out where it was, so that reading the source gives nothing away."""
        if isinstance(expected, ast.Constant):
            value: Any = expected.value
            if isinstance(value, bool):
                return ast.Constant(not value)
            if isinstance(value, int | float) and value == value and abs(value) < 1e15:
                return ast.Constant(value + self._draw.randrange(1, 50))
            if isinstance(value, str):
                return ast.Constant(value + self._draw.choice("abcdefghijklmnopqrstuvwxyz") * 2)
        return ast.Call(ast.Name(self._name, ast.Load()), [expected], [])


def _literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True
