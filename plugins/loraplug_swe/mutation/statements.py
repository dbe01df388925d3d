"""Kinds of bugs of whole statements and functions. Each proposes (kind, start, stop, replacement, note) for a node."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import libcst as cst

from loraplug_swe.mutation.expressions import Proposals
from loraplug_swe.mutation.proposals import Kind, Site, parameters

EXCEPTIONS = {
    "ValueError": "TypeError",
    "TypeError": "ValueError",
    "KeyError": "IndexError",
    "IndexError": "KeyError",
    "AttributeError": "TypeError",
    "StopIteration": "ValueError",
    "OSError": "ValueError",
    "FileNotFoundError": "PermissionError",
    "ZeroDivisionError": "ValueError",
    "NotImplementedError": "ValueError",
    "RuntimeError": "ValueError",
    "LookupError": "ValueError",
    "ImportError": "AttributeError",
    "OverflowError": "ValueError",
    "UnicodeDecodeError": "TypeError",
}
_EMPTY = {"[]": "list", "{}": "dict", "set()": "set", "list()": "list", "dict()": "dict"}


def missing_return(site: Site, node: cst.Return) -> Proposals:
    """A result that is computed but not returned."""
    if node.value is not None and site.source(node.value) != "None":
        start, stop = site.span(node)
        yield "missing_return", start, stop, site.source(node.value), "a `return` is gone"


def removed_statement(site: Site, node: cst.IndentedBlock) -> Proposals:
    """A call or an assignment that is not made any more, or made after the one it should come before."""
    lines = [line for line in node.body if isinstance(line, cst.SimpleStatementLine)]
    for line in lines:
        if len(line.body) != 1:
            continue
        kind = _removable(site, line.body[0])
        if kind is None:
            continue
        note = f"`{_first_line(site, line)}` is gone"
        if len(node.body) > 1:
            yield kind, *site.whole_lines(line), "", note
        else:
            yield kind, *site.span(line.body[0]), "pass", note
    for one, other in pairwise(node.body):
        if _plain(one) and _plain(other):
            (start, middle), (after, stop) = site.span(one), site.span(other)
            swapped = site.text[after:stop] + site.text[middle:after] + site.text[start:middle]
            yield "wrong_order", start, stop, swapped, f"`{_first_line(site, one)}` comes too late"


def _removable(site: Site, statement: cst.BaseSmallStatement) -> str | None:
    if isinstance(statement, cst.Expr):
        value = statement.value
        if isinstance(value, cst.Call) or (isinstance(value, cst.Await) and isinstance(value.expression, cst.Call)):
            return "removed_call"
        return "removed_yield" if isinstance(value, cst.Yield) else None
    if isinstance(statement, cst.AugAssign):
        return "missing_update"
    if isinstance(statement, cst.Assign) and len(statement.targets) == 1:
        target = statement.targets[0].target
        if isinstance(target, cst.Attribute | cst.Subscript):
            return "missing_update"
        if isinstance(target, cst.Name):
            since = site.first_use.get(target.value, -1 if target.value in site.functions[-1][2] else None)
            return "missing_update" if since is not None and since < site.span(target)[0] else None
    return None


def _first_line(site: Site, node: cst.CSTNode) -> str:
    start, stop = site.span(node)
    line = site.text[start:stop].split("\n")[0]
    return line if len(line) <= 60 else f"{line[:57]}..."


def _plain(statement: cst.CSTNode) -> bool:
    return (
        isinstance(statement, cst.SimpleStatementLine)
        and len(statement.body) == 1
        and isinstance(statement.body[0], cst.Assign | cst.AugAssign | cst.Expr)
        and not isinstance(getattr(statement.body[0], "value", None), cst.SimpleString)
    )


def dropped_guard(site: Site, node: cst.If) -> Proposals:
    """A special case at the front of something that is not looked after any more; or one always taken."""
    if node.orelse is not None or not isinstance(node.body, cst.IndentedBlock):
        return
    first, last = site.lines(node)
    start, stop = site.whole_lines(node)
    if site.text[start : site.span(node)[0]].strip():  # an elif
        return
    leaves = node.body.body and isinstance(node.body.body[-1], cst.SimpleStatementLine)
    if leaves and last - first <= 4:
        yield "dropped_condition", start, stop, "", f"the case `{_first_line(site, node)}` is gone"


def copied_branch(site: Site, node: cst.If) -> Proposals:
    """A branch copied from the one beside it and not changed."""
    other = node.orelse.body if isinstance(node.orelse, cst.Else | cst.If) else None
    if other is None:
        return
    for kept, lost in ((node.body, other), (other, node.body)):
        source, place = site.block(kept), site.block(lost)
        if source and place and place[1] - place[0] < 600 and source[1] - source[0] < 600:
            yield "copied_branch", *place, site.text[slice(*source)], "two branches do the same"


def wrong_loop_exit(site: Site, node: cst.Break | cst.Continue) -> Proposals:
    """`continue` for `break`."""
    now, other = ("break", "continue") if isinstance(node, cst.Break) else ("continue", "break")
    yield "wrong_loop_exit", *site.span(node), other, f"`{now}` became `{other}`"


def wrong_exception(site: Site, node: cst.Raise | cst.ExceptHandler) -> Proposals:
    """An exception of another type raised or awaited."""
    kind = node.exc if isinstance(node, cst.Raise) else node.type
    for name in _names(kind):
        if (other := EXCEPTIONS.get(name.value)) is not None:
            yield "wrong_exception", *site.span(name), other, f"{name.value} became {other}"


def _names(node: cst.BaseExpression | None) -> Iterator[cst.Name]:
    if isinstance(node, cst.Name):
        yield node
    elif isinstance(node, cst.Call):
        yield from _names(node.func)
    elif isinstance(node, cst.Tuple):
        for element in node.elements:
            yield from _names(element.value)


def wrong_default(site: Site, node: cst.FunctionDef) -> Proposals:
    """Another default value, or one that all calls share."""
    for one in (*node.params.posonly_params, *node.params.params, *node.params.kwonly_params):
        if one.default is None:
            continue
        now = site.source(one.default)
        for other in _other_defaults(one.default, now):
            yield "wrong_default", *site.whole(one.default), other, f"the default of `{one.name.value}` became {other}"
        if now == "None":
            yield from _shared_default(site, node, one)


def _other_defaults(default: cst.BaseExpression, now: str) -> list[str]:
    if now in ("True", "False"):
        return ["False" if now == "True" else "True"]
    if isinstance(default, cst.Integer) and now.isdecimal():
        return [str(int(now) + 1)] + ([str(int(now) - 1)] if int(now) else [])
    if isinstance(default, cst.SimpleString) and default.prefix == "":
        return [default.quote * 2 if default.evaluated_value else f"{default.quote} {default.quote}"]
    return ["0"] if now == "None" else ["None"]


def _shared_default(site: Site, node: cst.FunctionDef, parameter: cst.Param) -> Proposals:
    """`if x is None: x = []` moved into the default, where all calls share it."""
    name = parameter.name.value
    if not isinstance(node.body, cst.IndentedBlock) or parameter.default is None:
        return
    for statement in node.body.body:
        if not isinstance(statement, cst.If) or statement.orelse or site.source(statement.test) != f"{name} is None":
            continue
        body = site.block(statement.body)
        made = site.text[slice(*body)].strip() if body else ""
        empty = made.removeprefix(f"{name} = ")
        if made != empty and empty in _EMPTY:
            start, (begin, stop) = site.whole(parameter.default)[0], site.whole_lines(statement)
            between = site.text[start + len("None") : begin]
            yield "mutable_default", start, stop, empty + between, f"all calls share the default of `{name}`"


def wrong_variable(site: Site, node: cst.FunctionDef) -> Proposals:
    """Another variable of the same function: a parameter, or one bound earlier."""
    binder = _Binder(site)
    node.body.visit(binder)
    site.first_use = binder.bound
    known = dict.fromkeys(sorted(parameters(node)), -1) | binder.bound
    if len(known) < 2:
        return
    for use, at in binder.uses:
        if use.value not in known or at < known[use.value]:
            continue
        others = [name for name, since in known.items() if name != use.value and since < at and name != "_"]
        others.sort(key=lambda name: (_unlike(name, use.value), -known[name], name))
        for other in others[:2]:
            yield "wrong_variable", *site.span(use), other, f"`{use.value}` became `{other}`"


def _unlike(one: str, other: str) -> int:
    """0 for names easily taken for each other: one letter each, or with a common beginning or end."""
    return 0 if len(one) == len(other) == 1 or one[:2] == other[:2] or one[-3:] == other[-3:] else 1


class _Binder(cst.CSTVisitor):
    """Where a function binds its names for the first time, and all uses of names as values."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site, self.bound = site, dict[str, int]()
        self.uses: list[tuple[cst.Name, int]] = []

    def _bind(self, target: cst.CSTNode, after: int) -> None:
        if isinstance(target, cst.Name):
            self.bound.setdefault(target.value, after)
        elif isinstance(target, cst.Tuple | cst.List):
            for element in target.elements:
                self._bind(element.value, after)
        else:
            target.visit(self)

    def visit_Assign(self, node: cst.Assign) -> bool:  # noqa: N802
        for one in node.targets:
            self._bind(one.target, self.site.span(node)[1])
        node.value.visit(self)
        return False

    def visit_AnnAssign(self, node: cst.AnnAssign) -> bool:  # noqa: N802
        self._bind(node.target, self.site.span(node)[1])
        if node.value is not None:
            node.value.visit(self)
        return False

    def visit_For(self, node: cst.For) -> bool:  # noqa: N802
        self._bind(node.target, self.site.span(node.body)[0])
        for part in (node.iter, node.body, node.orelse):
            if part is not None:
                part.visit(self)
        return False

    def visit_AsName(self, node: cst.AsName) -> bool:  # noqa: N802
        self._bind(node.name, self.site.span(node)[1])
        return False

    def visit_Name(self, node: cst.Name) -> None:  # noqa: N802
        self.uses.append((node, self.site.span(node)[0]))

    def visit_Call(self, node: cst.Call) -> bool:  # noqa: N802
        if not isinstance(node.func, cst.Name):
            node.func.visit(self)
        for arg in node.args:
            arg.value.visit(self)
        return False

    def visit_Attribute(self, node: cst.Attribute) -> bool:  # noqa: N802
        node.value.visit(self)
        return False

    def _leave_alone(self, node: cst.CSTNode) -> bool:  # noqa: ARG002
        return False

    visit_FunctionDef = visit_ClassDef = visit_Lambda = visit_Annotation = visit_Raise = _leave_alone  # noqa: N815
    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ExceptHandler = _leave_alone  # noqa: N815
    visit_Import = visit_ImportFrom = visit_Del = visit_Global = visit_Nonlocal = _leave_alone  # noqa: N815


STATEMENTS: tuple[tuple[tuple[type[cst.CSTNode], ...], Kind], ...] = (
    ((cst.FunctionDef,), wrong_default),
    ((cst.FunctionDef,), wrong_variable),
    ((cst.Return,), missing_return),
    ((cst.IndentedBlock,), removed_statement),
    ((cst.If,), dropped_guard),
    ((cst.If,), copied_branch),
    ((cst.Break, cst.Continue), wrong_loop_exit),
    ((cst.Raise, cst.ExceptHandler), wrong_exception),
)
