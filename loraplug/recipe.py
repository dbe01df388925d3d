"""The second pass: tables become components, strictly, and every problem is reported at once with its path."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from attrs import field, frozen, validators

from loraplug.components import (
    KINDS,
    Component,
    DatasetSource,
    Doc,
    Exporter,
    Formatter,
    ModelLoader,
    Quantizer,
    Trainer,
)
from loraplug.errors import InputError, PluginError, Problem, RecipeError
from loraplug.layers import Layers, Table
from loraplug.options import expected, options, structure, unknown_key
from loraplug.registry import Registry

_OPTIONAL = ("validation", "quantizer")
_RUN_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


@frozen
class Validation:
    """Rows held out of training. Give one of `fraction`, `rows` and `path`."""

    fraction: Annotated[float | None, Doc("share of the rows to hold out, between 0 and 1")] = field(
        default=None, validator=validators.optional([validators.gt(0), validators.lt(1)])
    )
    rows: Annotated[int | None, Doc("how many rows to hold out, about: groups stay whole")] = field(
        default=None, validator=validators.optional(validators.ge(1))
    )
    path: Annotated[Path | None, Doc("a .json, .jsonl or .parquet file or a saved data set with the rows")] = None
    group_by: Annotated[
        str,
        Doc("what stays on one side: auto (repository if several, else task, else row), repo, task, row, or a column"),
    ] = "auto"

    def __attrs_post_init__(self) -> None:
        given = [name for name in ("fraction", "rows", "path") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(f"needs exactly one of fraction, rows and path; has {' and '.join(given) or 'none'}")


@frozen
class Recipe:
    """A whole recipe, every stage a component. `folder` is where relative paths in `file` start."""

    file: Path
    folder: Path
    run_name: str
    dataset: DatasetSource
    formatter: Formatter
    model: ModelLoader
    trainer: Trainer
    exporter: tuple[Exporter, ...]
    quantizer: Quantizer | None = None
    validation: Validation | None = None
    seed: int = 42
    lock: Table | None = None

    def parts(self) -> dict[str, Any]:
        """What stands in each table, in the order of the stages; None where a table is left out."""
        names = ("dataset", "validation", "formatter", "model", "quantizer", "trainer", "exporter")
        return {name: getattr(self, name) for name in names}


def build(layers: Layers, registry: Registry) -> Recipe:
    """Make the recipe's components.

    Raises:
        RecipeError: with every problem found.
    """
    builder = _Builder(layers, registry)
    recipe = builder.build()
    if recipe is not None:
        for part in (*(getattr(recipe, kind) for kind in KINDS if kind != "exporter"), *recipe.exporter):
            builder.problems += part.check(recipe) if part is not None else ()
    if builder.problems or recipe is None:
        todo = "see what exists with `loraplug plugins list` and `loraplug plugins show NAME`"
        raise RecipeError(builder.problems, where=layers.file, todo=todo)
    return recipe


def build_part(layers: Layers, registry: Registry, kind: str) -> Any:
    """Make the component of one table alone; None where it is left out and may be.

    Raises:
        RecipeError: with every problem found in that table.
    """
    builder = _Builder(layers, registry)
    part = builder.part(kind)
    if builder.problems:
        todo = "see what exists with `loraplug plugins list` and `loraplug plugins show NAME`"
        raise RecipeError(builder.problems, where=layers.file, todo=todo)
    return part


class _Builder:
    def __init__(self, layers: Layers, registry: Registry) -> None:
        self.layers, self.registry = layers, registry
        self.problems: list[Problem] = []

    def build(self) -> Recipe | None:
        table = self.layers.table
        known = {name: name for name in ("run_name", "seed", "validation", "extends", "lock", *KINDS)}
        for key in sorted(table.keys() - known.keys()):
            self.add(key, unknown_key(key, known))
        parts: dict[str, Any] = {kind: self.part(kind) for kind in KINDS if kind != "exporter"}
        parts |= {"run_name": self.run_name(table.get("run_name")), "seed": self.seed(table.get("seed", 42))}
        parts["exporter"] = self.exporters(table.get("exporter", [{"use": "adapter"}]))
        if "validation" in table:
            parts["validation"] = self.structured(Validation, table["validation"], ("validation",))
        if self.problems:
            return None
        return Recipe(file=self.layers.file, folder=self.layers.folder, lock=table.get("lock"), **parts)

    def add(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))

    def run_name(self, value: Any) -> str:
        if value is None:
            self.add("run_name", 'missing key: write run_name = "my-run" at the top')
        elif not isinstance(value, str):
            self.add("run_name", expected(str, value))
        elif not _RUN_NAME.fullmatch(value):
            rule = "use 1 to 100 letters, digits, dots, dashes or underscores, and no dot first or last"
            self.add("run_name", f"{value!r} cannot be a folder's name: {rule}")
        return str(value)

    def seed(self, value: Any) -> Any:
        if type(value) is not int or not 0 <= value < 2**32:
            self.add("seed", f"{expected(int, value)}; from 0 to 4294967295")
        return value

    def part(self, kind: str) -> Component | None:
        if kind in self.layers.table:
            return self.component(kind, self.layers.table[kind], (kind,))
        if kind not in _OPTIONAL:
            self.add(kind, f"missing table: write [{kind}] with use = {self.names(kind)}")
        return None

    def names(self, kind: str) -> str:
        return " | ".join(f'"{entry.name}"' for entry in self.registry.of_kind(kind)) or "…"

    def exporters(self, tables: Any) -> tuple[Component | None, ...]:
        if not isinstance(tables, list):
            self.add("exporter", "expected a list of tables: write [[exporter]] with two brackets")
            return ()
        return tuple(self.component("exporter", item, ("exporter", index)) for index, item in enumerate(tables))

    def component(self, kind: str, table: Any, path: tuple[str | int, ...]) -> Component | None:
        use = table.get("use") if isinstance(table, dict) else None
        if not isinstance(use, str):
            self.add(f"{_dotted(path)}.use", f"missing key: write use = {self.names(kind)}")
            return None
        try:
            cls = self.registry.find(kind, use)
        except PluginError as error:
            self.add(f"{_dotted(path)}.use", error.what)
            return None
        made: Component | None = self.structured(cls, {k: v for k, v in table.items() if k != "use"}, path)
        return made

    def structured(self, cls: type[Any], table: Any, path: tuple[str | int, ...]) -> Any:
        made, problems = structure(cls, self.located(cls, table, path), _dotted(path))
        self.problems += problems
        return made

    def located(self, cls: type[Any], table: Any, path: tuple[str | int, ...]) -> Any:
        """The table with relative paths made absolute, from the folder of whoever said them."""
        if not isinstance(table, dict):
            return table
        table = dict(table)
        for option in options(cls):
            value, here = table.get(option.name), (*path, option.name)
            origin = self.layers.origin(here)
            if option.is_path and isinstance(value, str) and origin is not None:
                table[option.name] = absolute(value, origin.folder, sure=option.is_path is True)
            elif option.nested is not None:
                table |= {option.name: self.located(option.nested, value, here)} if value is not None else {}
        return table


def absolute(value: str, folder: Path, sure: bool = True) -> str:
    """`value` as an absolute path from `folder`, unless it is empty, has a scheme (`https:`, `hub:`) or is a name."""
    if not value or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", value):
        return value
    # not pathlib: its expanduser and exists raise where there is no such user, or a name is too long
    path = os.path.abspath(os.path.join(folder, os.path.expanduser(value)))  # noqa: PTH100, PTH111, PTH118
    known = sure or value.startswith((".", "/", "~")) or value.endswith(".gguf") or os.path.exists(path)  # noqa: PTH110
    return path if known else value


def _dotted(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
