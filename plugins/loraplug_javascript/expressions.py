"""Kinds of bugs inside one expression. Each proposes (kind, first byte, byte after the last, replacement, note)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from loraplug_javascript.syntax import FUNCTIONS, Page

if TYPE_CHECKING:
    from tree_sitter import Node

Proposal = tuple[str, int, int, str, str]
Proposals = Iterator[Proposal]
Kind = Callable[[Page, "Node"], Proposals]

COMPARISONS = {"<": ("<=", ">"), "<=": ("<", ">="), ">": (">=", "<"), ">=": (">", "<="), "===": ("!==",),
               "!==": ("===",), "==": ("!=",), "!=": ("==",)}  # fmt: skip
LOOSE = {"===": "==", "!==": "!="}
OPERATORS = {"+": "-", "-": "+", "*": "/", "/": "*", "%": "/", "**": "*", "&": "|", "|": "&", "^": "&", "<<": ">>",
             ">>": "<<", ">>>": ">>", "&&": "||", "||": "&&", "+=": "-=", "-=": "+=", "*=": "+=", "/=": "*=",
             "|=": "&=", "&=": "|=", "++": "--", "--": "++"}  # fmt: skip
FALLBACKS = {"??": "||", "||": "??", "??=": "||=", "||=": "??="}
NEIGHBOURS: dict[str, tuple[str, ...]] = {}
for _group in (
    "map filter", "map forEach", "some every", "push unshift", "pop shift", "find findLast", "findIndex findLastIndex",
    "indexOf lastIndexOf", "startsWith endsWith", "trimStart trimEnd", "padStart padEnd", "toLowerCase toUpperCase",
    "keys values", "entries keys", "min max", "floor ceil", "round floor", "slice splice", "substring substr",
    "replace replaceAll", "concat push", "reduce reduceRight", "flatMap map", "find filter", "find some",
    "getTime getDate", "getFullYear getMonth", "getDate getDay", "charAt charCodeAt", "parseInt parseFloat",
    "has delete", "then catch", "all race", "left right", "first last", "start end", "head tail", "prev next",
    "width height", "key value", "row column", "freeze seal", "isNaN isFinite", "length size", "call apply",
):  # fmt: skip
    _one, _other = _group.split()
    NEIGHBOURS[_one] = (*NEIGHBOURS.get(_one, ()), _other)
    NEIGHBOURS[_other] = (*NEIGHBOURS.get(_other, ()), _one)
_SLICES = frozenset({"slice", "substring", "substr", "splice", "subarray", "at"})
_NAMING = frozenset({"method_definition", "pair", "field_definition", "public_field_definition", "pair_pattern"})
_SHORT = 40


def told(page: Page, node: Node) -> str:
    """The text of a node on one line, short enough for a note."""
    text = " ".join(page.source(node).split())
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."


def _operator(node: Node) -> Node | None:
    return node.child_by_field_name("operator")


def operators(page: Page, node: Node) -> Proposals:
    """Another operator: comparison, arithmetic, boolean, fallback."""
    sign = _operator(node)
    if sign is None:
        return
    text, start, stop = page.source(sign), sign.start_byte, sign.end_byte
    for other in COMPARISONS.get(text, ()):
        yield "wrong_comparison", start, stop, other, f"`{text}` is `{other}`"
    if text in LOOSE:
        yield "loose_equality", start, stop, LOOSE[text], f"`{text}` is `{LOOSE[text]}`"
    if text in OPERATORS:
        yield "wrong_operator", start, stop, OPERATORS[text], f"`{text}` is `{OPERATORS[text]}`"
    if text in FALLBACKS:
        yield "wrong_fallback", start, stop, FALLBACKS[text], f"`{text}` is `{FALLBACKS[text]}`"


def conditions(page: Page, node: Node) -> Proposals:
    """One side of `&&`, `||` and `??` alone."""
    sign, left, right = _operator(node), node.child_by_field_name("left"), node.child_by_field_name("right")
    if sign is None or left is None or right is None or page.source(sign) not in ("&&", "||", "??"):
        return
    for kept, gone in ((left, right), (right, left)):
        note = f"`{told(page, gone)}` is not asked for"
        yield "dropped_condition", node.start_byte, node.end_byte, page.source(kept), note


def negation(page: Page, node: Node) -> Proposals:
    """`!x` without its `!`, and `-x` without its sign."""
    sign, inner = _operator(node), node.child_by_field_name("argument")
    if sign is not None and inner is not None and page.source(sign) in ("!", "-"):
        note = f"a `{page.source(sign)}` is gone"
        yield "missing_negation", node.start_byte, node.end_byte, page.source(inner), note


def awaiting(page: Page, node: Node) -> Proposals:
    """A promise that nobody waits for."""
    inner = node.named_children[-1] if node.named_children else None
    if inner is not None:
        yield "missing_await", node.start_byte, node.end_byte, page.source(inner), "an `await` is gone"


def branches(page: Page, node: Node) -> Proposals:
    """The two results of `a ? b : c` the other way round."""
    one, other = node.child_by_field_name("consequence"), node.child_by_field_name("alternative")
    if one is None or other is None or page.source(one) == page.source(other):
        return
    start, stop = one.start_byte, other.end_byte
    between = page.text[page.at(one.end_byte) : page.at(other.start_byte)]
    swapped = page.source(other) + between + page.source(one)
    yield "swapped_branches", start, stop, swapped, f"`{told(page, one)}` and `{told(page, other)}` are swapped"


def optional_chain(page: Page, node: Node) -> Proposals:
    """`a?.b` that takes it that `a` is there."""
    dotted = node.next_sibling is not None and node.next_sibling.type == "property_identifier"
    yield "missing_optional_chain", node.start_byte, node.end_byte, "." if dotted else "", "a `?.` is gone"


def calls(page: Page, node: Node) -> Proposals:
    """Arguments in another order, one too few, and slices that begin or end elsewhere."""
    given = node.child_by_field_name("arguments")
    if given is None or given.type != "arguments":
        return
    listed = [one for one in given.named_children if one.type != "comment"]
    for one, other in pairwise(listed):
        if "spread_element" in (one.type, other.type) or page.source(one) == page.source(other):
            continue
        between = page.text[page.at(one.end_byte) : page.at(other.start_byte)]
        swapped = page.source(other) + between + page.source(one)
        note = f"`{told(page, one)}` and `{told(page, other)}` are swapped"
        yield "swapped_arguments", one.start_byte, other.end_byte, swapped, note
    if len(listed) > 1:
        note = f"the argument `{told(page, listed[-1])}` is gone"
        yield "missing_argument", listed[-2].end_byte, listed[-1].end_byte, "", note
    function = node.child_by_field_name("function")
    name = function.child_by_field_name("property") if function is not None else None
    if name is not None and page.source(name) in _SLICES:
        for one in listed[:2]:
            text = page.source(one)
            if one.type == "number" and text.isdigit():
                yield "slice_boundary", one.start_byte, one.end_byte, str(int(text) + 1), f"{text} is one more"
            elif one.type != "spread_element":
                note = f"`{told(page, one)}` is one more"
                wrapped = text if one.type in ("identifier", "member_expression") else f"({text})"
                yield "slice_boundary", one.start_byte, one.end_byte, f"{wrapped} + 1", note
    if given.named_children and any(one.type == "spread_element" for one in listed):
        for one in listed:
            if one.type == "spread_element":
                yield "missing_spread", one.start_byte, one.start_byte + 3, "", "a `...` is gone"


def spreads(page: Page, node: Node) -> Proposals:
    """`[...a]` that holds `a` itself."""
    for one in node.named_children:
        if one.type == "spread_element":
            yield "missing_spread", one.start_byte, one.start_byte + 3, "", "a `...` is gone"


def numbers(page: Page, node: Node) -> Proposals:
    """A number that is one too high or too low, beside an operator or as an index; another one elsewhere."""
    text, parent = page.source(node), node.parent
    if parent is None or not text.isdigit():
        return
    value = int(text)
    if parent.type == "subscript_expression":
        yield "wrong_index", node.start_byte, node.end_byte, str(value + 1), f"{text} is {value + 1}"
        return
    counting = parent.type in ("binary_expression", "augmented_assignment_expression", "variable_declarator")
    kind = "off_by_one" if counting else "wrong_constant"
    if parent.type in ("assignment_pattern", "required_parameter", "optional_parameter"):
        kind = "wrong_default"
    for other in (value + 1, value - 1) if value and kind == "off_by_one" else (value + 1,):
        yield kind, node.start_byte, node.end_byte, str(other), f"{text} is {other}"


def constants(page: Page, node: Node) -> Proposals:
    """`true` for `false`, `null` for `undefined`, and a text that is empty, or not."""
    text, parent = page.source(node), node.parent
    default = parent is not None and parent.type in ("assignment_pattern", "required_parameter", "optional_parameter")
    kind = "wrong_default" if default else "wrong_constant"
    if text in ("true", "false"):
        other = "false" if text == "true" else "true"
        yield kind, node.start_byte, node.end_byte, other, f"`{text}` is `{other}`"
    elif text in ("null", "undefined"):
        other = "undefined" if text == "null" else "null"
        yield "wrong_nullish", node.start_byte, node.end_byte, other, f"`{text}` is `{other}`"


def names(page: Page, node: Node) -> Proposals:
    """Another property or method, whose name or use is alike."""
    text, parent = page.source(node), node.parent
    if parent is not None and parent.type in _NAMING and parent.child_by_field_name("value") != node:
        return
    for other in NEIGHBOURS.get(text, ()):
        yield "similar_name", node.start_byte, node.end_byte, other, f"`{text}` is `{other}`"


def indexes(page: Page, node: Node) -> Proposals:
    """`a[i]` that is the next one's."""
    at = node.child_by_field_name("index")
    if at is not None and at.type in ("identifier", "binary_expression", "member_expression"):
        yield "wrong_index", at.end_byte, at.end_byte, " + 1", f"`[{told(page, at)}]` is one further"


def patterns(page: Page, node: Node) -> Proposals:
    """A regular expression without one of its flags."""
    flags = node.child_by_field_name("flags")
    if flags is not None:
        text = page.source(flags)
        for flag in text:
            yield "missing_flag", flags.start_byte, flags.end_byte, text.replace(flag, ""), f"the flag `{flag}` is gone"


def variables(page: Page, node: Node) -> Proposals:
    """A parameter or variable of the function in place of another."""
    parent = node.parent
    if parent is None or parent.type not in _READING or (parent.child_by_field_name("left") == node and "assign" in (
        parent.type
    )):  # fmt: skip
        return
    if parent.type == "member_expression" and parent.child_by_field_name("object") != node:
        return
    if parent.type == "variable_declarator" and parent.child_by_field_name("value") != node:
        return
    if parent.type == "pair" and parent.child_by_field_name("value") != node:
        return
    if parent.type == "call_expression":  # what is called is another matter
        return
    own = page.source(node)
    known = _bound(page, node)
    if own in known and len(known) > 1:
        other = known[(known.index(own) + 1) % len(known)]
        yield "wrong_variable", node.start_byte, node.end_byte, other, f"`{own}` is `{other}`"


_READING = frozenset({
    "arguments", "assignment_expression", "augmented_assignment_expression", "binary_expression", "member_expression",
    "pair", "return_statement", "subscript_expression", "template_substitution", "ternary_expression",
    "unary_expression", "variable_declarator", "array", "parenthesized_expression", "spread_element",
})  # fmt: skip


def _bound(page: Page, node: Node) -> list[str]:
    """Names of the innermost function's parameters and of its variables declared above a node."""
    function = node.parent
    while function is not None and function.type not in FUNCTIONS:
        function = function.parent
    if function is None:
        return []
    found: list[str] = []
    listed = function.child_by_field_name("parameters") or function.child_by_field_name("parameter")
    if listed is not None:
        if listed.type == "identifier":
            found.append(page.source(listed))
        for one in listed.named_children:
            inner = one.child_by_field_name("pattern") or one.child_by_field_name("left") or one
            if inner.type == "identifier":
                found.append(page.source(inner))
    body = function.child_by_field_name("body")
    waiting = list(body.named_children) if body is not None and body.type == "statement_block" else []
    while waiting:
        one = waiting.pop(0)
        if one.end_byte > node.start_byte:
            continue
        if one.type in ("lexical_declaration", "variable_declaration"):
            targets = [each.child_by_field_name("name") for each in one.named_children]
            found += [page.source(each) for each in targets if each is not None and each.type == "identifier"]
    return list(dict.fromkeys(found))


EXPRESSIONS: tuple[tuple[tuple[str, ...], Kind], ...] = (
    (("binary_expression", "augmented_assignment_expression", "update_expression"), operators),
    (("binary_expression",), conditions),
    (("unary_expression",), negation),
    (("await_expression",), awaiting),
    (("ternary_expression",), branches),
    (("optional_chain",), optional_chain),
    (("call_expression", "new_expression"), calls),
    (("array",), spreads),
    (("number",), numbers),
    (("true", "false", "null", "undefined"), constants),
    (("property_identifier",), names),
    (("subscript_expression",), indexes),
    (("regex",), patterns),
    (("identifier",), variables),
)
