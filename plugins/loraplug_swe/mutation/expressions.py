"""Kinds of bugs inside one expression. Each proposes (kind, start, stop, replacement, note) for a node."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import libcst as cst

from loraplug_swe.mutation.proposals import Kind, Site

Proposals = Iterator[tuple[str, int, int, str, str]]

COMPARISONS: dict[type[cst.BaseCompOp], tuple[str, ...]] = {
    cst.LessThan: ("<=", ">"),
    cst.LessThanEqual: ("<", ">="),
    cst.GreaterThan: (">=", "<"),
    cst.GreaterThanEqual: (">", "<="),
    cst.Equal: ("!=", ">="),
    cst.NotEqual: ("==",),
    cst.In: ("not in",),
    cst.NotIn: ("in",),
    cst.Is: ("is not",),
    cst.IsNot: ("is",),
}
OPERATORS: dict[type[cst.CSTNode], tuple[str, ...]] = {
    cst.Add: ("-",),
    cst.Subtract: ("+",),
    cst.Multiply: ("+", "//"),
    cst.Divide: ("//", "*"),
    cst.FloorDivide: ("/", "%"),
    cst.Modulo: ("//",),
    cst.Power: ("*",),
    cst.BitAnd: ("|",),
    cst.BitOr: ("&",),
    cst.BitXor: ("|",),
    cst.LeftShift: (">>",),
    cst.RightShift: ("<<",),
    cst.And: ("or",),
    cst.Or: ("and",),
    cst.AddAssign: ("-=", "="),
    cst.SubtractAssign: ("+=", "="),
    cst.MultiplyAssign: ("+=", "="),
    cst.BitAndAssign: ("|=",),
    cst.BitOrAssign: ("&=", "="),
}
NEIGHBOURS: dict[str, tuple[str, ...]] = {}
for _group in (
    "min max", "any all", "append extend", "startswith endswith", "lstrip rstrip", "keys values", "items keys",
    "lower upper", "find rfind", "index rindex", "split rsplit", "partition rpartition", "floor ceil", "popleft pop",
    "appendleft append", "add discard", "union intersection", "isdigit isalpha", "islower isupper", "year month",
    "days seconds", "left right", "first last", "start stop", "start end", "head tail", "prev next", "width height",
    "key value", "row column", "isinstance issubclass", "ljust rjust", "sin cos", "takewhile dropwhile", "lt le",
    "gt ge", "removeprefix removesuffix", "encode decode", "getattr hasattr", "update setdefault",
    "bisect_left bisect_right",
):  # fmt: skip
    _one, _other = _group.split()
    NEIGHBOURS[_one] = (*NEIGHBOURS.get(_one, ()), _other)
    NEIGHBOURS[_other] = (*NEIGHBOURS.get(_other, ()), _one)
WRAPPERS = frozenset({
    "list", "tuple", "sorted", "reversed", "set", "str", "int", "abs", "len", "iter", "float", "bool", "frozenset",
    "dict", "round", "repr", "strip", "lstrip", "rstrip", "lower", "upper", "copy", "casefold", "title",
})  # fmt: skip


def wrong_comparison(site: Site, node: cst.ComparisonTarget) -> Proposals:
    """`<` for `<=`, `in` for `not in`, …"""
    for other in COMPARISONS.get(type(node.operator), ()):
        start, stop = site.span(node.operator)
        yield "wrong_comparison", start, stop, other, f"`{site.text[start:stop]}` became `{other}`"


def wrong_operator(site: Site, node: cst.BinaryOperation | cst.BooleanOperation | cst.AugAssign) -> Proposals:
    """`+` for `-`, `and` for `or`, `=` for `+=`, …"""
    for other in OPERATORS.get(type(node.operator), ()):
        start, stop = site.span(node.operator)
        kind = "missing_update" if other == "=" else "wrong_operator"
        yield kind, start, stop, other, f"`{site.text[start:stop]}` became `{other}`"


def dropped_condition(site: Site, node: cst.BooleanOperation) -> Proposals:
    """One half of `a and b`."""
    for kept, lost in ((node.left, node.right), (node.right, node.left)):
        yield "dropped_condition", *site.span(node), site.source(kept), f"`{site.source(lost)}` is not asked any more"


def inverted_test(site: Site, node: cst.IfExp) -> Proposals:
    """`a if not c else b`, and the branches of a conditional expression written twice."""
    yield from _inverted(site, node.test)
    for one, other in ((node.body, node.orelse), (node.orelse, node.body)):
        yield "copied_branch", *site.whole(one), site.source(other), f"`{site.source(other)}` stands in both branches"


def inverted_filter(site: Site, node: cst.CompIf) -> Proposals:
    """The filter of a comprehension negated, or removed."""
    yield from _inverted(site, node.test)
    start, stop = site.whole(node)
    yield "dropped_condition", start, stop, "", "the filter of a comprehension is gone"


def inverted_condition(site: Site, node: cst.If | cst.While) -> Proposals:
    """The condition of an if or a while negated."""
    yield from _inverted(site, node.test)


def _inverted(site: Site, test: cst.BaseExpression) -> Proposals:
    whole = site.whole(test)
    if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
        yield "inverted_condition", *whole, site.source(test.expression), "a `not` is gone"
    elif isinstance(test, cst.Name | cst.Call | cst.Attribute | cst.Subscript):
        yield "inverted_condition", *whole, f"not {site.source(test)}", "a condition is turned round"
    elif isinstance(test, cst.BooleanOperation):
        yield "inverted_condition", *whole, f"not ({site.text[slice(*whole)]})", "a condition is turned round"


def missing_negation(site: Site, node: cst.UnaryOperation) -> Proposals:
    """`x` for `-x`, `~x` or `not x`."""
    start, stop = site.span(node)
    sign = site.text[start : site.whole(node.expression)[0]].strip()
    yield "missing_negation", start, stop, site.source(node.expression), f"a `{sign}` is gone"


def off_by_one(site: Site, node: cst.Integer) -> Proposals:
    """A number one too large or too small."""
    if node.value.isdecimal() and int(node.value) < 1000:
        value = int(node.value)
        for other in (value + 1, value - 1) if value else (1,):
            yield "off_by_one", *site.span(node), str(other), f"{value} became {other}"


def off_by_one_range(site: Site, node: cst.Call) -> Proposals:
    """A range that ends one too late or too early."""
    if isinstance(node.func, cst.Name) and node.func.value in ("range", "islice") and node.args:
        last = node.args[min(len(node.args) - 1, 1)].value
        if not isinstance(last, cst.Integer | cst.Name) and node.func.value != "range":
            return
        _, stop = site.whole(last)
        for more in (" - 1", " + 1"):
            yield "off_by_one", stop, stop, more, f"`{node.func.value}` ends{more} later"


def off_by_one_dropped(site: Site, node: cst.BinaryOperation) -> Proposals:
    """`n` for `n - 1` or `n + 1`."""
    one = isinstance(node.right, cst.Integer) and node.right.value == "1"
    if one and isinstance(node.operator, cst.Add | cst.Subtract):
        start, stop = site.span(node)
        yield "off_by_one", start, stop, site.source(node.left), f"`{site.text[start:stop]}` lost its 1"


def slice_boundary(site: Site, node: cst.Slice) -> Proposals:
    """A slice that begins or ends one off, or at the end of all."""
    for name, end in (("begin", node.lower), ("end", node.upper)):
        if end is None:
            continue
        start, stop = site.whole(end)
        yield "slice_boundary", start, stop, "", f"the {name} of a slice is gone"
        if not isinstance(end, cst.Integer):
            yield "slice_boundary", stop, stop, " + 1", f"a slice {name}s one later"
            yield "slice_boundary", stop, stop, " - 1", f"a slice {name}s one earlier"
    if node.lower is not None and node.upper is None:
        source = f":{site.source(node.lower)}"
        yield "slice_boundary", *site.span(node), source, "a slice takes the other part"


def swapped_arguments(site: Site, node: cst.Call) -> Proposals:
    """Two positional arguments swapped."""
    plain = [arg for arg in node.args if arg.keyword is None and not arg.star]
    for one, other in pairwise(plain):
        (start, middle), (after, stop) = site.whole(one.value), site.whole(other.value)
        swapped = site.text[after:stop] + site.text[middle:after] + site.text[start:middle]
        yield "swapped_arguments", start, stop, swapped, f"arguments of `{_short(site, node.func)}` are swapped"


def missing_argument(site: Site, node: cst.Call) -> Proposals:
    """A keyword argument forgotten, where it is not the only one."""
    for before, arg in pairwise(node.args):
        if arg.keyword is not None:
            start, stop = site.whole(before.value)[1], site.whole(arg.value)[1]
            yield "missing_argument", start, stop, "", f"`{arg.keyword.value}` is not given any more"


def removed_conversion(site: Site, node: cst.Call) -> Proposals:
    """`x` for `list(x)`, `x.strip()`, …"""
    start, stop = site.span(node)
    if isinstance(node.func, cst.Name) and node.func.value in WRAPPERS and len(node.args) == 1:
        if not node.args[0].star:
            yield "removed_call", start, stop, site.source(node.args[0].value), f"`{node.func.value}()` is gone"
    elif isinstance(node.func, cst.Attribute) and node.func.attr.value in WRAPPERS and not node.args:
        yield "removed_call", start, stop, site.source(node.func.value), f"`.{node.func.attr.value}()` is gone"


def missing_await(site: Site, node: cst.Await) -> Proposals:
    """A coroutine that is not awaited."""
    yield "missing_await", *site.span(node), site.source(node.expression), "an `await` is gone"


def missing_from(site: Site, node: cst.Yield) -> Proposals:
    """`yield x` for `yield from x`."""
    if isinstance(node.value, cst.From):
        yield "wrong_yield", *site.whole(node.value), site.source(node.value.item), "`yield from` became `yield`"


def wrong_constant(site: Site, node: cst.Name) -> Proposals:
    """True for False."""
    for value, other in (("True", "False"), ("False", "True")):
        if node.value == value:
            yield "wrong_constant", *site.span(node), other, f"{value} became {other}"


def similar_name(site: Site, node: cst.Attribute | cst.Call) -> Proposals:
    """A function or attribute that is called much like the right one, or does nearly the same."""
    name = node.attr if isinstance(node, cst.Attribute) else node.func
    if isinstance(name, cst.Name):
        for other in NEIGHBOURS.get(name.value, ()):
            yield "similar_name", *site.span(name), other, f"`{name.value}` became `{other}`"


def wrong_index(site: Site, node: cst.Index) -> Proposals:
    """The last for the first and the other way round."""
    source = site.source(node.value)
    for one, other in (("0", "-1"), ("-1", "0")):
        if source == one:
            yield "wrong_index", *site.whole(node.value), other, f"[{one}] became [{other}]"


def _short(site: Site, node: cst.CSTNode) -> str:
    text = site.source(node)
    return text if len(text) <= 30 else f"{text[:27]}..."


EXPRESSIONS: tuple[tuple[tuple[type[cst.CSTNode], ...], Kind], ...] = (
    ((cst.ComparisonTarget,), wrong_comparison),
    ((cst.BinaryOperation, cst.BooleanOperation, cst.AugAssign), wrong_operator),
    ((cst.BooleanOperation,), dropped_condition),
    ((cst.If, cst.While), inverted_condition),
    ((cst.IfExp,), inverted_test),
    ((cst.CompIf,), inverted_filter),
    ((cst.UnaryOperation,), missing_negation),
    ((cst.Integer,), off_by_one),
    ((cst.Call,), off_by_one_range),
    ((cst.BinaryOperation,), off_by_one_dropped),
    ((cst.Slice,), slice_boundary),
    ((cst.Call,), swapped_arguments),
    ((cst.Call,), missing_argument),
    ((cst.Call,), removed_conversion),
    ((cst.Await,), missing_await),
    ((cst.Yield,), missing_from),
    ((cst.Name,), wrong_constant),
    ((cst.Attribute, cst.Call), similar_name),
    ((cst.Index,), wrong_index),
)
