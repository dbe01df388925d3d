"""The fields of an attrs class as options of a TOML table, with descriptions."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator, Mapping, MutableMapping, MutableSequence, Sequence, Set
from datetime import date, time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import attrs

from loraplug.config.errors import InputError

LISTS: frozenset[Any] = frozenset({list, tuple, set, frozenset, Sequence, MutableSequence, Collection, Set})
"""Types whose values are written as a TOML list."""
MAPPINGS: frozenset[Any] = frozenset({dict, Mapping, MutableMapping})


class ByUse:
    """Base of classes of which a table says by its key `use` which one it is for; told apart by kind and name."""

    __slots__ = ()
    kind: ClassVar[str]
    name: ClassVar[str]


@attrs.frozen
class Doc:
    """Documents one option: `path: Annotated[Path, Doc("the CSV file")]`.

    `is_path = True` marks a `str` that may name something on disk (`Path` fields always do): a relative one is taken
    from the folder of the recipe that says it, or from the working folder when it comes from `--set` or the
    environment. Values such as `https://…`, `hub:…` and `package:…` stay as they are. `"maybe"` is for values that may
    also be a name: they count as a path if they start with `.`, `/` or `~`, end in `.gguf`, or exist. `"written"` is
    for values that are a path only if they are written as one, whatever exists: with a `/`, or ending in `.jinja`.
    `aka` lists names that other tools give the option; who writes one is told the right one.
    """

    text: str
    is_path: bool | Literal["maybe", "written"] = False
    aka: tuple[str, ...] = ()


@attrs.frozen
class Option:
    """One key. `default` is `attrs.NOTHING` where it is required, `hint` the type.

    `nested` is the class of a table; `holds` the base of the components that stand here, each a table with `use`.
    """

    name: str
    type_name: str
    default: Any
    doc: str
    is_path: bool | Literal["maybe", "written"]
    nested: type | None
    aka: tuple[str, ...] = ()
    hint: Any = None
    holds: type[ByUse] | None = None

    @property
    def required(self) -> bool:
        """Whether the recipe must say it."""
        return self.default is attrs.NOTHING


def options(cls: type) -> list[Option]:
    """The options of a component or nested table, in the order they are written.

    Raises:
        InputError: an annotation names what does not exist, or a default holds itself; says which class it is in.
    """
    try:
        attrs.resolve_types(cls)
        return [_option(attribute) for attribute in attrs.fields(cls) if attribute.init]
    except (NameError, AttributeError, SyntaxError, TypeError, ImportError) as error:
        todo = "import the annotations' names at module level"
        raise InputError(f"the types of its options cannot be read: {error}", where=cls.__name__, todo=todo) from error
    except RecursionError:
        raise InputError("the default of an option contains itself", where=cls.__name__, todo="remove it") from None


def _option(attribute: attrs.Attribute[Any]) -> Option:
    hint, doc = attribute.type, Doc("")
    if get_origin(hint) is Annotated:
        doc = next((item for item in get_args(hint)[1:] if isinstance(item, Doc)), doc)
        hint = get_args(hint)[0]
    default: Any = attribute.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = None if default.takes_self else default.factory()  # what depends on other options is not known here
    inside = [*_inside(hint)]
    tables = [arm for arm in arms_of(hint) if is_table(arm)]
    return Option(
        name=attribute.name,
        type_name=type_text(hint),
        default=default,
        doc=doc.text,
        is_path=doc.is_path or Path in inside,
        nested=tables[0] if len(tables) == 1 else None,
        aka=doc.aka,
        hint=hint,
        holds=next((part for part in inside if is_by_use(part)), None),
    )


def _inside(hint: Any) -> Iterator[Any]:
    """The types in unions and lists of a type; what is in a mapping or a table has keys of its own."""
    if get_origin(hint) in (Annotated, Union, types.UnionType) or get_origin(hint) in LISTS:
        for part in get_args(hint):
            yield from _inside(part)
    else:
        yield hint


def is_by_use(hint: Any) -> bool:
    """Whether a table for this type says by `use` which class it is for."""
    return isinstance(hint, type) and get_origin(hint) is None and issubclass(hint, ByUse)


def is_table(hint: Any) -> bool:
    """Whether a table for this type has the fields of the class as its keys."""
    return attrs.has(hint) and not is_by_use(hint)


def arms_of(hint: Any) -> tuple[Any, ...]:
    """The types a union is made of; a type that is none stands alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def item_types(hint: Any, length: int) -> list[Any]:
    """The type of each of the items of a list of this length; a `tuple[int, str]` has as many as it names."""
    args = get_args(hint)
    if get_origin(hint) is tuple and args[-1:] != (...,):
        return list(args)
    return [args[0] if args else Any] * length


def fitting(tables: list[Any], table: Mapping[str, Any]) -> list[Any]:
    """Of the classes that a table could be for, those that have all of its keys, and no required one that it lacks."""
    return [
        cls
        for cls in tables
        if table.keys() <= {option.name for option in options(cls)}
        and table.keys() >= {option.name for option in options(cls) if option.required}
    ]


def type_text(hint: Any) -> str:
    """A type as a recipe author would say it: `int`, `"a" | "b"`, `list of str`, `table`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_text(args[0])
    if origin is Literal:
        return " | ".join(map(_written, args))
    if origin in (Union, types.UnionType):
        arms = [arm for arm in args if arm is not type(None)]
        if {str, Path} <= {*arms}:  # a text, for addresses
            arms.remove(str)
        tables = sum(map(is_table, arms)) > 1  # several are told apart by their keys
        return " | ".join(_table_text(arm) if tables and is_table(arm) else type_text(arm) for arm in arms)
    if origin in LISTS:
        fixed = origin is tuple and args[-1:] != (...,)
        return f"list of {', '.join(map(type_text, args if fixed else args[:1]))}"
    if origin in MAPPINGS:
        return "table" if args[1] is Any else f"table of {type_text(args[1])}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " | ".join(_written(member.value) for member in hint)
    if is_by_use(hint):
        return f"{hint.kind} table"
    return {Path: "path", Any: "any"}.get(hint, "table" if attrs.has(hint) else getattr(hint, "__name__", str(hint)))


def _table_text(cls: type) -> str:
    return f"table ({', '.join(option.name for option in options(cls))})"


def _written(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def expected(hint: Any, value: Any) -> str:
    """Says what type a value should have had."""
    text = f"expected {type_text(hint)}, got {type(value).__name__} {value!r}"
    if isinstance(value, (date, time)) and type_text(hint) == "str":
        text += f"; put it in quotes, with --set in two kinds: --set 'KEY=\"{value}\"'"
    if isinstance(value, str) and has_controls(value):
        text += "; in double quotes \\ starts an escape: put a Windows path in single quotes, or write it with /"
    return text


def has_controls(text: str) -> bool:
    """Whether there are control characters in it, as in a path whose backslashes were read as escapes."""
    return any(ord(sign) < 32 for sign in text)
