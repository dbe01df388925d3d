"""A small expression language for selecting rows: a listed subset of Python's syntax.

An expression is parsed with `ast` and walked; nothing is compiled or evaluated, no attribute of any object is reached.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from loraplug import InputError
from loraplug_data.caching import texts

_LONGEST, _DEEPEST = 4000, 60
_WORDS = {"true": "True", "false": "False", "null": "None"}  # as TOML and JSON write them
_PARTS = (
    ast.Constant, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.List, ast.Tuple, ast.Attribute, ast.Subscript,
)  # fmt: skip
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: operator.contains(b, a), ast.NotIn: lambda a, b: not operator.contains(b, a),
}  # fmt: skip
_NUMBERS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip


def _roles(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError(f"roles() wants a list of messages, got {type(value).__name__}")
    return [str(one.get("role", one.get("from"))) for one in value if isinstance(one, Mapping)]


def _said(value: Any) -> Iterator[str]:
    """The texts in a value, but for who says them."""
    if isinstance(value, list):
        for item in value:
            yield from _said(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from () if key in ("role", "from") else _said(item)
    else:
        yield from texts(value)


FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "len": (len, 1),
    "lower": (str.lower, 1),
    "upper": (str.upper, 1),
    "startswith": (str.startswith, 2),
    "endswith": (str.endswith, 2),
    "roles": (_roles, 1),
    "text": (lambda value: "\n".join(_said(value)), 1),
    "words": (lambda value: sum(len(text.split()) for text in _said(value)), 1),
}
"""What can be called, and with how many values."""
HELP = 'columns, row["a column"], texts, numbers, [lists], and or not, comparisons, in, + - * / // %, ' + ", ".join(
    f"{name}({', '.join('xy'[:count])})" for name, (_, count) in FUNCTIONS.items()
)


class Expression:
    """A parsed expression over the columns of a row.

    Raises:
        InputError: when it is made, of what is no expression or not in the language.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _LONGEST:
            raise InputError(f"is {len(text)} characters long; {_LONGEST} are read")
        try:
            self.tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(
                f"{text!r} is not a valid expression: {getattr(error, 'msg', None) or error}", todo=HELP
            ) from None
        self.names = {name for name in self._checked(self.tree, 0) if name != "row"}

    def check_names(self, columns: Collection[str], where: str) -> None:
        """InputError where a name is no column."""
        for name in sorted(self.names - set(columns)):
            near = get_close_matches(name, columns, n=1)
            did = f' (did you mean "{near[0]}"?)' if near else ""
            did = f" (write {_WORDS[name]})" if name in _WORDS else did
            raise InputError(f'no column "{name}" in the data{did}', where=where, todo=f"columns: {', '.join(columns)}")

    def of(self, row: Mapping[str, Any]) -> Any:
        """What it comes to for a row.

        Raises:
            TypeError, ValueError, ZeroDivisionError, OverflowError: its values do not go together.
        """
        return _value(self.tree, row)

    def _checked(self, node: ast.AST, depth: int) -> Iterator[str]:
        """Names in a part; InputError where it means nothing here."""
        if depth > _DEEPEST:
            raise InputError(f"is nested deeper than {_DEEPEST} levels", todo="split it into several `select`")
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Call):
            yield from self._call(node, depth)
        elif not isinstance(node, _PARTS) or (
            isinstance(node, ast.Constant) and not isinstance(node.value, str | int | float | bool | None)
        ):
            raise self._no(node)
        else:
            if isinstance(node, ast.BinOp) and type(node.op) not in _NUMBERS:
                raise self._no(node)
            if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not | ast.USub):
                raise self._no(node)
            for part in ast.iter_child_nodes(node):
                if isinstance(part, ast.expr):
                    yield from self._checked(part, depth + 1)
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "row":
                if not (isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)):
                    raise self._no(node)
                yield node.slice.value

    def _call(self, node: ast.Call, depth: int) -> Iterator[str]:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name not in FUNCTIONS:
            near = get_close_matches(name or "", FUNCTIONS, n=1)
            did = f" (did you mean {near[0]}?)" if near else ""
            raise InputError(f"{ast.unparse(node.func)}() is not a supported function{did}", todo=HELP)
        count = FUNCTIONS[name][1]
        if node.keywords or len(node.args) != count:
            raise InputError(f"{name}() wants {count} value{'s' if count > 1 else ''}: {ast.unparse(node)}", todo=HELP)
        for part in node.args:
            yield from self._checked(part, depth + 1)

    def _no(self, node: ast.AST) -> InputError:
        return InputError(f"{ast.unparse(node)!r} is not supported in expressions", todo=HELP)


def _value(node: Any, row: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return row if node.id == "row" else row.get(node.id)
        case ast.List() | ast.Tuple():
            return [_value(item, row) for item in node.elts]
        case ast.BoolOp():
            wanted = isinstance(node.op, ast.Or)
            return next((wanted for part in node.values if bool(_value(part, row)) == wanted), not wanted)
        case ast.UnaryOp():
            inner = _value(node.operand, row)
            return not inner if isinstance(node.op, ast.Not) else -_number(inner)
        case ast.BinOp():
            return _NUMBERS[type(node.op)](_number(_value(node.left, row)), _number(_value(node.right, row)))
        case ast.Compare():
            left = _value(node.left, row)
            for op, part in zip(node.ops, node.comparators, strict=True):
                right = _value(part, row)
                if not _COMPARE[type(op)](left, right):
                    return False
                left = right
            return True
        case ast.Attribute():
            return _at(_value(node.value, row), node.attr)
        case ast.Subscript():
            return _at(_value(node.value, row), _value(node.slice, row))
        case _:
            return FUNCTIONS[node.func.id][0](*(_value(part, row) for part in node.args))


def _number(value: Any) -> Any:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} is not a number")
    return value


def _at(value: Any, key: Any) -> Any:
    """A key of an object, an item of a list or a letter of a text; None where it is not there."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return value.get(key)
    if isinstance(value, list | str) and isinstance(key, int):
        return value[key] if -len(value) <= key < len(value) else None
    raise TypeError(f"{type(value).__name__} has no {key!r}")
