"""Components out of TOML tables and back, strictly.

cattrs by default ignores unknown keys, turns "false" into True and 3.7 into 3; here every value must already have the
type its field says, and every problem is found in one go.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from cattrs import ClassValidationError, Converter, IterableValidationError
from cattrs.errors import ForbiddenExtraKeysError

from loraplug_tables.errors import LoraplugError, Problem
from loraplug_tables.options import arms_of, expected, has_controls, options


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
    for arm in arms_of(hint):
        if isinstance(value, dict) and attrs.has(arm):
            return CONVERTER.structure(value, arm)  # its own errors say more than "no arm fits"
    for arm in arms_of(hint):
        try:
            return None if arm is type(None) and value is None else CONVERTER.structure(value, arm)
        except Exception:  # noqa: S112 - a structure hook may raise anything; the next arm is tried
            continue
    raise TypeError(expected(hint, value))


def _structure_literal(value: Any, hint: Any) -> Any:
    for choice in get_args(hint):
        if type(choice) is type(value) and choice == value:
            return value
    near = get_close_matches(value, [arg for arg in get_args(hint) if isinstance(arg, str)]) if value else []
    raise TypeError(expected(hint, value) + (f" (did you mean {near[0]!r}?)" if near else ""))


def _structure_list(value: Any, hint: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise TypeError(expected(hint, value))
    items: Any = list[get_args(hint)[0]]  # type: ignore[misc]
    return tuple(CONVERTER.structure(list(value), items))


def _has_origin(origin: Any, hint: Any) -> bool:
    return get_origin(hint) is origin


def _make_converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})
    for scalar in (str, int, float, bool, Path):
        converter.register_structure_hook(scalar, _strict(scalar))
    by_origin = {Union: _structure_union, types.UnionType: _structure_union, Literal: _structure_literal}
    by_origin[tuple] = _structure_list
    for origin, hook in by_origin.items():
        converter.register_structure_hook_func(partial(_has_origin, origin), hook)
    converter.register_unstructure_hook(Path, str)
    return converter


CONVERTER = _make_converter()


def structure(cls: type[Any], table: Any, path: str) -> tuple[Any, list[Problem]]:
    """Make `cls` from a TOML table; gives the object (None if it could not be made) and every problem found."""
    if not isinstance(table, dict):
        return None, [Problem(path, f"expected a table, got {type(table).__name__} {table!r}")]
    try:
        with attrs.validators.disabled():
            made = CONVERTER.structure(table, cls)
    except Exception as error:
        return None, list(_problems(error, path, cls))
    problems = list(_validate(made, path))
    return (None if problems else made), problems


def _validate(made: Any, path: str) -> Iterator[Problem]:
    """Run every field's validator, not just the first that fails; then `__attrs_post_init__` saw valid fields only."""
    for option in options(type(made)):
        if option.is_path and getattr(made, option.name) == "":
            yield Problem(f"{path}.{option.name}", "is empty; name a file or folder")
    for attribute in attrs.fields(type(made)):
        value, place = getattr(made, attribute.name), f"{path}.{attribute.name}"
        if attribute.validator is not None:
            try:
                attribute.validator(made, attribute, value)
            except (ValueError, TypeError, LoraplugError) as error:
                yield Problem(place, str(error.args[0]))
        if attrs.has(type(value)):
            yield from _validate(value, place)


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
            yield from _problems(inner, f"{path}[{place.index}]", place.type)
        for inner in bare:
            yield from _problems(inner, path, cls)
    elif isinstance(error, ForbiddenExtraKeysError):
        known = {name: option.name for option in options(error.cl) for name in (option.name, *option.aka)}
        for key in sorted(error.extra_fields):
            yield Problem(f"{path}.{key}", unknown_key(key, known))
    else:
        yield Problem(path, str(error) or type(error).__name__)


def unknown_key(key: str, known: Mapping[str, str]) -> str:
    """Says a key is unknown and which was meant, or which exist; `known` leads from every name of a key to the key."""
    if near := get_close_matches(key, known, n=1):
        return f"unknown key (did you mean {known[near[0]]}?)"
    return f"unknown key; known: {', '.join(sorted(set(known.values()))) or 'none'}"


def unstructure(made: Any) -> dict[str, Any]:
    """A component as a TOML table; None is left out, since TOML has no word for it."""
    plain: dict[str, Any] = _without_none(CONVERTER.unstructure(made))
    return plain


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
