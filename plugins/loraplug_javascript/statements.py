"""Kinds of bugs of whole statements. Each proposes (kind, first byte, byte after the last, replacement, note)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from loraplug_javascript.expressions import Kind, Proposals, told
from loraplug_javascript.syntax import Page

if TYPE_CHECKING:
    from tree_sitter import Node

_PLAIN = frozenset({"expression_statement"})
_NEXT = {"break_statement": "continue", "continue_statement": "break"}


def missing_return(page: Page, node: Node) -> Proposals:
    """A result worked out and not given back."""
    value = next((one for one in node.named_children if one.type != "comment"), None)
    if value is not None and value.type not in ("undefined", "object"):  # an object alone would be a block
        yield "missing_return", node.start_byte, value.start_byte, "", "a `return` is gone"


def inverted_condition(page: Page, node: Node) -> Proposals:
    """`if (x)` that asks for the contrary."""
    asked = node.child_by_field_name("condition")
    if asked is None or asked.type != "parenthesized_expression":
        return
    text = page.source(asked)
    yield "inverted_condition", asked.start_byte, asked.end_byte, f"(!{text})", f"`{told(page, asked)}` is inverted"


def wrong_loop_exit(page: Page, node: Node) -> Proposals:
    """`break` in place of `continue`, and the other way round."""
    word, other = node.type.removesuffix("_statement"), _NEXT[node.type]
    yield "wrong_loop_exit", node.start_byte, node.start_byte + len(word), other, f"`{word}` is `{other}`"


def removed_statement(page: Page, node: Node) -> Proposals:
    """A call or an assignment that is not made any more, or made after the one it should come before."""
    inside = [one for one in node.named_children if one.type != "comment"]
    for one in inside:
        kind = _removable(one)
        if kind is not None:
            yield kind, *page.whole(one), "", f"`{told(page, one)}` is gone"
    for one, other in pairwise(inside):
        if one.type in _PLAIN and other.type in _PLAIN and page.source(one) != page.source(other):
            between = page.text[page.at(one.end_byte) : page.at(other.start_byte)]
            swapped = page.source(other) + between + page.source(one)
            yield "wrong_order", one.start_byte, other.end_byte, swapped, f"`{told(page, one)}` comes too late"


def removed_guard(page: Page, node: Node) -> Proposals:
    """An `if` without `else` that gives back, throws or goes on at once, gone."""
    body = node.child_by_field_name("consequence")
    if body is None or node.child_by_field_name("alternative") is not None:
        return
    inside = body.named_children if body.type == "statement_block" else [body]
    leaving = ("return_statement", "throw_statement", "continue_statement", "break_statement")
    parent = node.parent
    if len(inside) == 1 and inside[0].type in leaving and parent is not None and parent.type == "statement_block":
        yield "removed_guard", *page.whole(node), "", f"`{told(page, node)}` is gone"


def _removable(statement: Node) -> str | None:
    if statement.type != "expression_statement" or not statement.named_children:
        return None
    inner = statement.named_children[0]
    if inner.type == "await_expression" and inner.named_children:
        inner = inner.named_children[-1]
    if inner.type == "call_expression":
        function = inner.child_by_field_name("function")
        return None if function is not None and function.type == "super" else "removed_call"
    if inner.type in ("assignment_expression", "augmented_assignment_expression", "update_expression"):
        return "missing_update"
    if inner.type == "unary_expression":  # delete
        return "missing_update"
    return "removed_yield" if inner.type == "yield_expression" else None


STATEMENTS: tuple[tuple[tuple[str, ...], Kind], ...] = (
    (("return_statement",), missing_return),
    (("if_statement", "while_statement"), inverted_condition),
    (("if_statement",), removed_guard),
    (("break_statement", "continue_statement"), wrong_loop_exit),
    (("statement_block", "switch_case"), removed_statement),
)
