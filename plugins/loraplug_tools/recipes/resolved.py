"""A resolved recipe as a flat list of values, each with who said it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from loraplug import App

DEFAULT = "default"


@frozen
class Value:
    """One value of a resolved recipe: its key as `--set` takes it, and where it was said."""

    key: str
    value: Any
    origin: str


def values(app: App, path: Path, settings: tuple[str, ...] = ()) -> list[Value]:
    """Every value of a recipe with its origin: `file:…`, `.env NAME`, `environment NAME`, `--set` or `default`.

    Relative paths start from the working folder, so that recipes of different folders can be compared.
    """
    from loraplug import as_table, build

    layers = app.read_layers(path, settings)
    recipe = build(layers, app.registry)
    table = as_table(recipe, app.registry, Path.cwd(), commands=True)
    return [
        Value(".".join(map(_part, place)), value, _origin(layers.origins.get(place)))
        for place, value in _leaves(table, ())
    ]


def _leaves(value: Any, place: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Tables and lists of tables are gone into; other lists are values."""
    if isinstance(value, dict) and value:
        items: Any = value.items()
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        items = enumerate(value)
    else:
        yield place, value
        return
    for key, item in items:
        yield from _leaves(item, (*place, key))


def _part(key: str | int) -> str:
    return f'"{key}"' if isinstance(key, str) and "." in key else str(key)


def _origin(said: Any) -> str:
    if said is None:
        return DEFAULT
    label: str = said.label
    here = f"{Path.cwd()}/"
    return f"file:{label.removeprefix(here)}" if label.startswith(("/", "\\")) or label[1:2] == ":" else label


def toml(value: Any) -> str:
    """A value on one line, as TOML writes it; `not set` for None, which TOML cannot say."""
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)


def by_name(found: list[Value]) -> dict[str, Value]:
    """The values by key, exporters under their names (`exporter.merged.out`), since their order says little."""
    uses = {value.key.rsplit(".", 1)[0]: value.value for value in found if value.key.endswith(".use")}
    names: dict[str, str] = {}
    for prefix, use in uses.items():
        if prefix.startswith("exporter."):
            twins = sum(name.partition("#")[0] == f"exporter.{use}" for name in names.values())
            names[prefix] = f"exporter.{use}" + (f"#{twins + 1}" if twins else "")
    named = {}
    for value in found:
        prefix = ".".join(value.key.split(".")[:2])
        named[names.get(prefix, prefix) + value.key.removeprefix(prefix)] = value
    return named
