"""Structures TOML tables into components, strictly, and back.

By default cattrs ignores unknown keys, turns "false" into True and 3.7 into 3; here every value must have its field's
type, and all problems are found at once.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time
from difflib import get_close_matches
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from cattrs import ClassValidationError, Converter, IterableValidationError
from cattrs.errors import ForbiddenExtraKeysError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn

from loraplug.config.errors import LoraplugError, Problem
from loraplug.config.options import (
    LISTS,
    MAPPINGS,
    ByUse,
    arms_of,
    expected,
    fitting,
    has_controls,
    is_by_use,
    is_table,
    item_types,
    options,
    type_text,
)

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class _Failed:
    """Stands where a component would, had it no problems: those are known, and the search for others goes on."""


FAILED: Any = _Failed()


def _strict(accepted: type) -> Any:
    def hook(value: Any, _: Any) -> Any:
        if type(value) is accepted:
            return value
        if accepted is float and type(value) is int:
            return float(value)
        # pathlib takes "" for the working folder; and no path of a user's holds a line break or a bell
        if accepted is Path and isinstance(value, str) and value and not has_controls(value):
            return Path(value)
        raise TypeError(expected(accepted, value))

    return hook


def _structure_union(value: Any, hint: Any) -> Any:
    tables = [arm for arm in arms_of(hint) if is_table(arm)]
    if isinstance(value, dict) and tables:
        return _structure_table(value, hint, tables)
    arms = arms_of(hint)
    if isinstance(value, str) and {str, Path} <= {*arms}:  # an address is text: pathlib would make one / of its //
        arms = tuple(arm for arm in arms if arm is not (Path if _ADDRESS.match(value) else str))
    for arm in arms:
        try:
            return None if arm is type(None) and value is None else CONVERTER.structure(value, arm)
        except Exception:  # noqa: S112 - a structure hook may raise anything; the next arm is tried
            continue
    named = [choice for arm in arms if get_origin(arm) is Literal for choice in get_args(arm)]
    raise TypeError(expected(hint, value) + _meant(value, named))


def _structure_table(value: dict[str, Any], hint: Any, tables: list[Any]) -> Any:
    """Of several classes, the one whose keys these are; where more than one could be meant, none is guessed."""
    found = tables if len(tables) == 1 else fitting(tables, value)
    if len(found) == 1:
        return CONVERTER.structure(value, found[0])  # its own errors say more than "no arm fits"
    if not found:
        if any(get_origin(arm) in MAPPINGS for arm in arms_of(hint)):
            return CONVERTER.structure(value, next(arm for arm in arms_of(hint) if get_origin(arm) in MAPPINGS))
        raise TypeError(f"expected {type_text(hint)}; has the keys {', '.join(value) or 'of none'}")
    made = []
    for arm in found:
        try:
            made.append(CONVERTER.structure(value, arm))
        except Exception:  # noqa: S112 - its values are of other types
            continue
    if len(made) != 1:
        raise TypeError(
            f"is ambiguous: {' or '.join(arm.__name__ for arm in found)}; write a key that only one of them has"
        )
    return made[0]


def _structure_literal(value: Any, hint: Any) -> Any:
    for choice in get_args(hint):
        if type(choice) is type(value) and choice == value:
            return value
    raise TypeError(expected(hint, value) + _meant(value, get_args(hint)))


def _structure_enum(value: Any, hint: Any) -> Any:
    for member in hint:
        if type(member.value) is type(value) and member.value == value:
            return member
    raise TypeError(expected(hint, value) + _meant(value, [member.value for member in hint]))


def _meant(value: Any, choices: Any) -> str:
    texts = [choice for choice in choices if isinstance(choice, str)]
    near = get_close_matches(value, texts) if isinstance(value, str) else []
    return f" (did you mean {near[0]!r}?)" if near else ""


def _structure_list(value: Any, hint: Any) -> Any:
    types_ = item_types(hint, len(value)) if isinstance(value, list | tuple | set | frozenset) else []
    if not isinstance(value, list | tuple | set | frozenset) or len(types_) != len(value):
        raise TypeError(expected(hint, value))
    items = _each(enumerate(value), types_, hint)
    kind = get_origin(hint) or hint
    return kind(items) if kind in (list, set, frozenset) else frozenset(items) if kind is AbstractSet else tuple(items)


def _structure_mapping(value: Any, hint: Any) -> Any:
    if not isinstance(value, dict):
        raise TypeError(expected(hint, value))
    args = get_args(hint) or (str, Any)
    keys = [CONVERTER.structure(key, args[0]) for key in value]
    return dict(zip(keys, _each(value.items(), [args[1]] * len(value), hint), strict=True))


def _each(items: Any, types_: list[Any], hint: Any) -> list[Any]:
    """Every item structured; what is wrong with any of them comes out together."""
    made, errors = [], []
    for (key, item), type_ in zip(items, types_, strict=True):
        try:
            made.append(CONVERTER.structure(item, type_))
        except Exception as error:
            error.add_note(IterableValidationNote(f"at {key}", key, type_))
            errors.append(error)
    if errors:
        raise IterableValidationError("items", errors, hint)
    return made


def _structure_by_use(value: Any, hint: Any) -> Any:
    """Components in components were made before, with what is installed at hand; only a whole table comes as a dict."""
    if isinstance(value, hint) or value is FAILED:
        return value
    if isinstance(value, dict) and attrs.has(hint):
        return make_dict_structure_fn(hint, CONVERTER)(value, hint)
    raise TypeError(expected(hint, value))


def _of(kinds: Any) -> Callable[[Any], bool]:
    def fits(hint: Any) -> bool:
        return get_origin(hint) in kinds or hint in kinds

    return fits


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _make_converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    for scalar in (str, int, float, bool, Path, date, datetime, time):
        converter.register_structure_hook(scalar, _strict(scalar))
    for fits, hook in (
        (_of((Union, types.UnionType)), _structure_union),
        (_of((Literal,)), _structure_literal),
        (_of(LISTS), _structure_list),
        (_of(MAPPINGS), _structure_mapping),
        (_is_enum, _structure_enum),
        (is_by_use, _structure_by_use),
    ):
        converter.register_structure_hook_func(fits, hook)
    return converter


CONVERTER = _make_converter()


def structure(cls: type[Any], table: Any, path: str) -> tuple[Any, list[Problem]]:
    """Make `cls` from a TOML table; gives the object (None if it could not be made) and every problem found."""
    if not isinstance(table, dict):
        return None, [Problem(path, f"expected a table, got {type(table).__name__} {table!r}")]
    half = _has_failed(table)
    try:
        with attrs.validators.disabled():
            made = CONVERTER.structure(table, cls)
    except Exception as error:
        # what speaks of the whole may speak of a component that was not made
        return None, [one for one in _problems(error, path, cls) if not (half and one.path == path)]
    problems = list(_validate(made, path))
    return (None if problems or half else made), problems


def _has_failed(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return value is FAILED or any(map(_has_failed, items))


def _validate(made: Any, path: str) -> Iterator[Problem]:
    """Run every field's validator, not just until the first failure."""
    for option in options(type(made)):
        if option.is_path and getattr(made, option.name) == "":
            yield Problem(f"{path}.{option.name}", "is empty; give a file or folder")
    for attribute in attrs.fields(type(made)):
        value, place = getattr(made, attribute.name), f"{path}.{attribute.name}"
        if attribute.validator is not None and not _has_failed(value):
            try:
                attribute.validator(made, attribute, value)
            except (ValueError, TypeError, LoraplugError) as error:
                yield Problem(place, str(error.args[0]) if error.args else type(error).__name__)
        yield from _validate_inside(value, place)


def _validate_inside(value: Any, path: str) -> Iterator[Problem]:
    """Those of tables in tables, lists and mappings; components in components were validated when they were made."""
    if is_table(type(value)):
        yield from _validate(value, path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _validate_inside(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _validate_inside(item, f"{path}[{index}]")


def _problems(error: BaseException, path: str, cls: Any) -> Iterator[Problem]:
    if isinstance(error, ClassValidationError):
        fields, bare = error.group_exceptions()
        for inner, note in fields:
            if isinstance(inner, KeyError) and inner.args == (note.name,):
                yield Problem(f"{path}.{note.name}", "missing key")
            else:
                yield from _problems(inner, f"{path}.{note.name}", note.type)
        for inner in bare:
            yield from _problems(inner, path, error.cl)
    elif isinstance(error, IterableValidationError):
        items, bare = error.group_exceptions()
        for inner, place in items:
            key = f".{place.index}" if isinstance(place.index, str) else f"[{place.index}]"
            yield from _problems(inner, path + key, place.type)
        for inner in bare:
            yield from _problems(inner, path, cls)
    elif isinstance(error, ForbiddenExtraKeysError):
        known = {name: option.name for option in options(error.cl) for name in (option.name, *option.aka)}
        for key in sorted(error.extra_fields):
            yield Problem(f"{path}.{key}", unknown_key(key, known))
    elif isinstance(error, LoraplugError):
        yield Problem.of(error, path)
    else:
        yield Problem(path, str(error) or type(error).__name__)


def unknown_key(key: str, known: Mapping[str, str]) -> str:
    """The message for an unknown key, with the nearest or all known ones; `known` leads from every name of a key to the
    key.
    """
    if near := get_close_matches(key, known, n=1):
        return f"unknown key (did you mean {known[near[0]]}?)"
    return f"unknown key; known: {', '.join(sorted(set(known.values()))) or 'none'}"


Use = Callable[[ByUse], str]
Shorten = Callable[[str], str]


def _name(part: ByUse) -> str:
    return part.name


def unstructure(made: Any, use: Use = _name, path: Shorten = str, held: bool = False) -> dict[str, Any]:
    """A component as a TOML table, without its own `use`; None is left out, since TOML has no word for it.

    Args:
        made: an attrs object.
        use: what a component inside is called.
        path: what is written for the value of an option that is a path.
        held: leave components inside as they are; such a table can be structured again without anything installed.
    """
    table = {}
    for option in options(type(made)):
        value = getattr(made, option.name)
        if value is not None:
            table[option.name] = as_toml(value, use, path, held, option.is_path is not False)
    return table


def as_toml(value: Any, use: Use = _name, path: Shorten = str, held: bool = False, named: bool = False) -> Any:
    """A value of an option as TOML can say it; see `unstructure`. `named`: texts in it name paths."""
    inner = partial(as_toml, use=use, path=path, held=held, named=named)
    if isinstance(value, ByUse):
        return value if held else {"use": use(value), **unstructure(value, use, path)}
    if attrs.has(type(value)):
        return unstructure(value, use, path, held)
    if isinstance(value, Path) or (named and isinstance(value, str)):
        return path(str(value))
    if isinstance(value, Enum):
        return inner(value.value)
    if isinstance(value, Mapping):
        return {str(inner(key)): inner(item) for key, item in value.items() if item is not None}
    if isinstance(value, AbstractSet):
        return sorted(map(inner, value), key=repr)
    return [*map(inner, value)] if isinstance(value, list | tuple) else value
