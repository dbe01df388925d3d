"""The fields of an attrs class as the options of a TOML table, described for people."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs


@attrs.frozen
class Doc:
    """Documents one option: `path: Annotated[Path, Doc("the CSV file")]`.

    `is_path = True` marks a `str` that may name something on disk (`Path` fields always do): a relative one is taken
    from the folder of the recipe that says it, or from the working folder when it comes from `--set` or the
    environment. Values such as `https://…`, `hub:…` and `package:…` stay as they are. `"maybe"` is for values that may
    also be a name: they count as a path if they start with `.`, `/` or `~`, end in `.gguf`, or exist.
    `aka` lists names that other tools give the option; who writes one is told the right one.
    """

    text: str
    is_path: bool | Literal["maybe"] = False
    aka: tuple[str, ...] = ()


@attrs.frozen
class Option:
    """One key. `default` is `attrs.NOTHING` where it is required; `nested` is the class of a table, `hint` the type."""

    name: str
    type_name: str
    default: Any
    doc: str
    is_path: bool | Literal["maybe"]
    nested: type | None
    aka: tuple[str, ...] = ()
    hint: Any = None

    @property
    def required(self) -> bool:
        """Whether the recipe must say it."""
        return self.default is attrs.NOTHING


def options(cls: type) -> list[Option]:
    """The options of a component or nested table, in the order they are written."""
    attrs.resolve_types(cls)
    return [_option(attribute) for attribute in attrs.fields(cls) if attribute.init]


def _option(attribute: attrs.Attribute[Any]) -> Option:
    hint, doc = attribute.type, Doc("")
    if get_origin(hint) is Annotated:
        doc = next((item for item in get_args(hint)[1:] if isinstance(item, Doc)), doc)
        hint = get_args(hint)[0]
    default: Any = attribute.default
    default = getattr(default, "factory", lambda: default)()
    arms = [arm for arm in arms_of(hint) if attrs.has(arm)]
    is_path = doc.is_path or Path in arms_of(hint)
    return Option(attribute.name, type_text(hint), default, doc.text, is_path, arms[0] if arms else None, doc.aka, hint)


def arms_of(hint: Any) -> tuple[Any, ...]:
    """The types a union is made of; a type that is none stands alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def type_text(hint: Any) -> str:
    """A type as a recipe author would say it: `int`, `"a" | "b"`, `list of str`, `table`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_text(args[0])
    if origin is Literal:
        return " | ".join(f'"{arg}"' if isinstance(arg, str) else str(arg).lower() for arg in args)
    if origin in (Union, types.UnionType):
        return " | ".join(type_text(arg) for arg in args if arg is not type(None))
    if origin in (tuple, list):
        return f"list of {type_text(args[0])}"
    if origin in (dict, Mapping):
        return f"table of {type_text(args[1])}"
    return {Path: "path", Any: "any"}.get(hint, "table" if attrs.has(hint) else getattr(hint, "__name__", str(hint)))


def expected(hint: Any, value: Any) -> str:
    """Says what type a value should have had."""
    text = f"expected {type_text(hint)}, got {type(value).__name__} {value!r}"
    if isinstance(value, str) and has_controls(value):
        text += "; in double quotes \\ begins an escape: put a Windows path in single quotes, or write it with /"
    return text


def has_controls(text: str) -> bool:
    """Whether there are control characters in it, as in a path whose backslashes were read as escapes."""
    return any(ord(sign) < 32 for sign in text)
