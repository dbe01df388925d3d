"""Tells how tests ended, and why those failed that did: what was expected, what there was, and the way there.

A part of `worker.py`, under its rules: loaded by its path, importing nothing but the standard library and pytest.
"""

from __future__ import annotations

import ast
import builtins
import linecache
import os
import re
import reprlib
import time
import traceback
import unittest
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

TREE = str(Path.cwd())
LONG = 400  # characters of a value or a message
Say = dict[str, Any]


class Watch:
    """A pytest plugin: what was collected, how each test ended, and why.

    Args:
        wanted: ids of the tests to run; all that are collected where it is None.
        stop_after: end the session when so many tests have failed; 0 is never. pytest's own `--maxfail` counts the
            subtests of a test one by one.
    """

    def __init__(self, wanted: Sequence[str] | None = None, coverage: Any = None, stop_after: int = 0) -> None:
        self.wanted = None if wanted is None else set(wanted)
        self.coverage = coverage
        self.stop_after = stop_after
        self.seconds: dict[str, float] = {}
        self.outcomes: dict[str, str] = {}
        self.failures: list[Say] = []
        self.broken: list[str] = []
        self.compared: tuple[str, str, str] | None = None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave only the tests asked for."""
        if self.wanted is not None:
            items[:] = [item for item in items if item.nodeid in self.wanted]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be imported."""
        if report.failed:
            self.broken.append(f"{report.nodeid}: {report.longreprtext[-LONG:]}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Tell coverage which test runs."""
        if self.coverage is not None:
            self.coverage.switch_context(item.nodeid)
        self.compared = None
        begun = time.perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - begun
            if self.coverage is not None:
                self.coverage.switch_context("")

    @pytest.hookimpl(tryfirst=True)
    def pytest_assertrepr_compare(self, op: str, left: object, right: object) -> None:
        """Remember what an assert compared, for `expected` and `actual`."""
        self.compared = (op, shown(left), shown(right))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        """Keep the worst outcome of a test's phases, and the first failure; subtests come before their test."""
        report: Any = yield
        if report.failed:
            if self.outcomes.get(item.nodeid) != "failed" and call.excinfo is not None:
                self.failures.append(explain(item.nodeid, call.excinfo.value, self.compared))
            self.outcomes[item.nodeid] = "failed"
            if 0 < self.stop_after <= sum(outcome == "failed" for outcome in self.outcomes.values()):
                item.session.shouldfail = f"stopping after {self.stop_after} tests that fail"
        elif self.outcomes.get(item.nodeid) != "failed" and (report.when == "call" or report.skipped):
            self.outcomes[item.nodeid] = "skipped" if report.skipped else report.outcome
        return report  # type: ignore[no-any-return]

    def counts(self) -> dict[str, int]:
        """How many tests ended how."""
        return dict(Counter(self.outcomes.values()))


def explain(test: str, error: BaseException, compared: tuple[str, str, str] | None) -> Say:
    """A failure as a `Failure` of `loraplug_swe.mutation.language`."""
    frames = list(traceback.walk_tb(error.__traceback__))
    trace = [
        (relative(frame.f_code.co_filename), line, frame.f_code.co_name,
         linecache.getline(frame.f_code.co_filename, line).strip()[:200])
        for frame, line in frames
        if frame.f_code.co_filename.startswith(TREE + os.sep)
    ]  # fmt: skip
    told: Say = {"test": test, "error": type(error).__name__, "message": clean(str(error))[:LONG], "trace": trace,
                 "check": "", "expected": "", "actual": "", "left": "", "right": ""}  # fmt: skip
    if trace:
        place = next(one for one in reversed(trace) if one[0] == trace[0][0])  # the last one in the test's own file
        statement = statement_at(str(Path(TREE, place[0])), place[1])
        told["check"] = place[3] if statement is None else ast.unparse(statement)[:LONG]
        told |= sides(statement, error, frames, compared if place == trace[-1] else None)
    return told


def statement_at(path: str, line: int) -> ast.stmt | None:
    """The innermost statement on a line of a file; of a compound one nothing, but for a `with` round one statement."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return None
    found = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)
             and node.lineno <= line <= (node.end_lineno or node.lineno)
             and (not hasattr(node, "body") or (isinstance(node, ast.With) and len(node.body) == 1
                                                and not hasattr(node.body[0], "body")))]  # fmt: skip
    return min(found, key=lambda node: (node.end_lineno or node.lineno) - node.lineno, default=None)


def sides(
    statement: ast.stmt | None,
    error: BaseException,
    frames: Sequence[tuple[FrameType, int]],
    compared: tuple[str, str, str] | None,
) -> Say:
    """What a failed check expected and what it got, as text, or its `left` and `right` where that cannot be told."""
    if not isinstance(error, AssertionError | pytest.fail.Exception):
        return {"actual": f"{type(error).__name__}: {clean(str(error))[:LONG]}"}
    asserting = next((frame for frame, _ in frames if frame.f_code.co_filename == unittest.case.__file__
                      and {"first", "second"} <= frame.f_locals.keys()), None)  # fmt: skip
    if asserting is not None:
        call = getattr(statement, "value", None)
        arguments = call.args[:2] if isinstance(call, ast.Call) else []
        pair = shown(asserting.f_locals["first"]), shown(asserting.f_locals["second"])
        return ordered(arguments, pair) if asserting.f_code.co_name == "assertEqual" else {}
    if (match := re.match(r"DID NOT RAISE (.+)|(\S+) not raised", str(error))) is not None:
        return {"expected": (match[1] or match[2])[:LONG], "actual": "no exception"}
    test = statement.test if isinstance(statement, ast.Assert) else None
    if compared is not None and compared[0] == "==" and isinstance(test, ast.Compare) and len(test.ops) == 1:
        return ordered([test.left, test.comparators[0]], compared[1:])
    return {}


def ordered(sources: Sequence[ast.expr], pair: tuple[str, str]) -> Say:
    """The sides of a comparison as `expected` and `actual` where one is written out, as `{1}` or `set([1])` is, or
    named so; else as `left` and `right`."""
    for tells in (written, named_expected):
        left, right = map(tells, sources) if len(sources) == 2 else (False, False)
        if left != right:
            return dict(zip(("expected", "actual") if left else ("actual", "expected"), pair, strict=True))
    return {"left": pair[0], "right": pair[1]}


def written(node: ast.expr) -> bool:
    """Whether a value is written out: of literals alone; a call of a builtin type, and `approx`, write one out too."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        own = isinstance(node.func, ast.Name) and isinstance(getattr(builtins, name, None), type)
        return (own or name == "approx") and all(map(written, [*node.args, *(each.value for each in node.keywords)]))
    if not isinstance(
        node, ast.Constant | ast.UnaryOp | ast.BinOp | ast.List | ast.Tuple | ast.Set | ast.Dict | ast.Starred
    ):
        return False
    return all(written(each) for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr))


def named_expected(node: ast.expr) -> bool:
    """Whether a value comes from a variable, or by a subscript or an attribute, that is called `expected` or so."""
    while isinstance(node, ast.Subscript):
        node = node.value
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return re.search(r"(?:^|_)(?:expect(?:ed|ation|ations)?|want(?:ed)?)(?:_|$|\d)", name.lower()) is not None


class _Repr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 4, 200, 200, 60
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxdeque = 20


_REPR = _Repr()


def shown(value: object) -> str:
    """A value as short text."""
    try:
        return clean(_REPR.repr(value))[:LONG]
    except Exception as error:
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"


def clean(text: str) -> str:
    """Text without addresses, and without the places of the sandbox."""
    text = text.replace(TREE + os.sep, "").replace(TREE, ".")
    for name in ("TMPDIR", "HOME"):
        if os.environ.get(name):
            text = text.replace(os.environ[name], "/tmp" if name == "TMPDIR" else "~")  # noqa: S108
    return re.sub(r"\b0x[0-9a-fA-F]{5,}\b", "0x...", text)


def relative(path: str) -> str:
    """A path below the tree."""
    return path[len(TREE) + 1 :].replace(os.sep, "/") if path.startswith(TREE + os.sep) else path
