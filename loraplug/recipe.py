"""The second pass: tables become components, strictly, and every problem is reported at once with its path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from attrs import field, frozen, validators

from loraplug.components import (
    TABLES,
    Component,
    DatasetSource,
    Exporter,
    Formatter,
    ModelLoader,
    Quantizer,
    Trainer,
    Transform,
    held,
)
from loraplug.context import Run
from loraplug.errors import InputError, PluginError, Problem, RecipeError
from loraplug.registry import Registry
from loraplug.validation import OWN, validation_source
from loraplug_tables.layers import Layers, Place, Table, as_key, dotted
from loraplug_tables.options import ByUse, Doc, expected
from loraplug_tables.structure import FAILED, structure, unknown_key

_OPTIONAL = ("validation", "quantizer")
_RUN_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


def _paths(_: Any, __: Any, value: Any) -> None:
    if value == ():
        raise ValueError("expected a path, or a list of paths")


@frozen
class Validation:
    """Rows held out of training. Give one of `fraction`, `rows` and `path`."""

    fraction: Annotated[float | None, Doc("share of the rows to hold out, between 0 and 1")] = field(
        default=None, validator=validators.optional([validators.gt(0), validators.lt(1)])
    )
    rows: Annotated[int | None, Doc("how many rows to hold out, about: groups stay whole")] = field(
        default=None, validator=validators.optional(validators.ge(1))
    )
    path: Annotated[
        Path | tuple[Path, ...] | None,
        Doc("a file with the rows, a list of files, a pattern or a folder; read as [dataset] is"),
    ] = field(default=None, validator=_paths)
    rename: Annotated[
        dict[str, Any] | None, Doc("columns to rename in what `path` names; where not set, as in [dataset]")
    ] = None
    field: Annotated[str | None, Doc("the `field` of the source that reads `path`; where not set, as in [dataset]")] = (
        None
    )
    split: Annotated[str | None, Doc("the `split` of the source that reads `path`; likewise")] = None
    delimiter: Annotated[str | None, Doc("the `delimiter` of the source that reads `path`; likewise")] = None
    group_by: Annotated[
        str,
        Doc("what stays on one side: auto (repository if several, else task, else row), repo, task, row, or a column"),
    ] = "auto"

    def __attrs_post_init__(self) -> None:
        given = [name for name in ("fraction", "rows", "path") if getattr(self, name) is not None]
        own = [name for name in OWN if getattr(self, name) is not None]
        if own and self.path is None:
            raise InputError(f"{own[0]} is of what path names, and there is no path")
        if len(given) != 1:
            raise InputError(f"needs exactly one of fraction, rows and path; has {' and '.join(given) or 'none'}")


@frozen
class Plugins:
    """Which plugins this recipe does without."""

    disable: Annotated[tuple[str, ...], Doc("plugins to leave out, by the names `loraplug plugins list` gives")] = ()


@frozen
class Recipe:
    """A whole recipe, every stage a component. `folder` is where relative paths in `file` start.

    `unfilled`: what the file says at keys that variables were put into, such as `exporter.0.repo` to `${OWNER}/model`.
    """

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
    disabled: tuple[str, ...] = ()
    transforms: tuple[Transform, ...] = ()
    unfilled: Mapping[str, str] = field(factory=dict)

    def parts(self) -> dict[str, Any]:
        """What stands in each table, in the order of the stages; None where a table is left out."""
        names = ("dataset", "validation", "formatter", "model", "quantizer", "trainer", "exporter")
        return {name: getattr(self, name) for name in names}

    def components(self) -> Iterator[Component]:
        """Every component, in the order of the stages, each with those inside it."""
        stages = [getattr(self, kind) for kind in TABLES if kind != "exporter"]
        for part in (stages[0], *self.transforms, *stages[1:], *self.exporter):
            if part is not None:
                yield part
                yield from held(part)


def build(layers: Layers, registry: Registry) -> Recipe:
    """Make the recipe's components.

    Raises:
        RecipeError: with every problem found.
    """
    builder = _Builder(layers, registry)
    recipe = builder.build()
    if recipe is not None:
        for part in recipe.components():
            builder.problems += part.check(recipe=recipe)
        builder.problems += _same_places(recipe)
    if builder.problems or recipe is None:
        todo = "see what exists with `loraplug plugins list` and `loraplug plugins show NAME`"
        raise RecipeError(builder.problems, where=layers.file, todo=todo)
    return recipe


def build_source(layers: Layers, registry: Registry) -> tuple[DatasetSource, tuple[Transform, ...], str, int]:
    """Make the source of `[dataset]` and its transforms alone, with the name and seed of a run, written or not.

    Raises:
        RecipeError: with every problem found in them; what else the recipe holds is not looked at.
    """
    builder, table = _Builder(layers, registry), layers.table
    source, transforms = builder.part("dataset"), builder.transforms()
    name, seed = builder.run_name(table.get("run_name", "data")), builder.seed(table.get("seed", 42))
    if builder.problems or not isinstance(source, DatasetSource):
        todo = "see what exists with `loraplug plugins list` and `loraplug plugins show NAME`"
        raise RecipeError(builder.problems, where=layers.file, todo=todo)
    return source, tuple(part for part in transforms if isinstance(part, Transform)), name, seed


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


def build_table(cls: type[Any], table: Table, registry: Registry) -> tuple[Any, list[Problem]]:
    """Make one component of a class, and those inside it, from a table without `use`; with every problem found."""
    builder = _Builder(Layers(Path("table"), Path.cwd()), registry)
    made = builder.structured(cls, table, (cls.kind,), (cls,))
    return (None if builder.problems else made), builder.problems


def _same_places(recipe: Recipe) -> Iterator[Problem]:
    """Two exporters that would put what they make at one place."""
    run, seen = Run(recipe.run_name, recipe.seed), dict[Path, int]()
    for index, exporter in enumerate(recipe.exporter):
        place = exporter.place(run=run).absolute()
        if (first := seen.setdefault(place, index)) != index:
            where = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
            message = (
                f"would be made at the place of exporter[{first}], {where}: give them different places, or take one out"
            )
            yield Problem(f"exporter[{index}]", message)


class _Builder:
    def __init__(self, layers: Layers, registry: Registry) -> None:
        self.layers, self.registry = layers, registry
        self.problems: list[Problem] = []
        self.disabled = self.disable()
        if self.disabled:
            origin = layers.origin(("plugins", "disable"))
            self.registry = registry.without(self.disabled, f"[plugins] disable of {origin and origin.label}")

    def disable(self) -> tuple[str, ...]:
        if "plugins" not in self.layers.table:
            return ()
        wanted: Plugins | None = self.structured(Plugins, self.layers.table["plugins"], ("plugins",))
        names = {plugin.name: plugin.name for plugin in self.registry.plugins}
        for index, name in enumerate(wanted.disable if wanted else ()):
            if name not in names:
                near = get_close_matches(name, names, n=1) or sorted(names)
                self.add(f"plugins.disable[{index}]", f'no plugin named "{name}"; try {", ".join(near)}')
        return wanted.disable if wanted else ()

    def build(self) -> Recipe | None:
        table = self.layers.table
        known = {name: name for name in ("run_name", "seed", "validation", "plugins", "extends", "lock", *TABLES)}
        for key in sorted(table.keys() - known.keys()):
            self.add(key, unknown_key(key, known))
        parts: dict[str, Any] = {kind: self.part(kind) for kind in TABLES if kind != "exporter"}
        parts["transforms"] = self.transforms()
        parts |= {"run_name": self.run_name(table.get("run_name")), "seed": self.seed(table.get("seed", 42))}
        parts["exporter"] = self.exporters(table.get("exporter", self.default_exporters()))
        if not isinstance(table.get("lock", {}), dict):
            self.add("lock", "expected a table: it is written by a run, into recipe.lock.toml")
        if "validation" in table:
            parts["validation"] = self.structured(Validation, table["validation"], ("validation",))
        if "validation" in table:
            self.check_validation(parts["dataset"], parts["validation"])
        if self.problems:
            return None
        parts |= {"file": self.layers.file, "folder": self.layers.folder, "unfilled": self.layers.unfilled}
        return Recipe(lock=table.get("lock"), disabled=self.disabled, **parts)

    def check_validation(self, training: Any, wanted: Any) -> None:
        if training is not None and wanted is not None and wanted.path is not None:
            try:
                validation_source(training, wanted, self.registry)
            except InputError as error:
                self.add(str(error.where), error.what + (f"; {error.todo}" if error.todo else ""))

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
            table = self.layers.table[kind]
            if kind == "dataset" and isinstance(table, dict):  # [[dataset.transform]] is the core's own
                table = {key: value for key, value in table.items() if key != "transform"}
            return self.component(kind, table, (kind,))
        if kind not in _OPTIONAL:
            self.add(kind, f"missing table: write [{kind}] with use = {self.names(kind)}")
        return None

    def names(self, kind: str) -> str:
        return " | ".join(f'"{entry.name}"' for entry in self.registry.of_kind(kind)) or "…"

    def default_exporters(self) -> list[Table]:
        try:
            return [{"use": self.registry.use_of(self.registry.built_in("exporter", "adapter"))}]
        except PluginError:  # told where it is looked for
            return [{"use": "adapter"}]

    def exporters(self, tables: Any) -> tuple[Component | None, ...]:
        if not isinstance(tables, list):
            self.add("exporter", "expected a list of tables: write [[exporter]] with two brackets")
            return ()
        return tuple(self.component("exporter", item, ("exporter", index)) for index, item in enumerate(tables))

    def transforms(self) -> tuple[Component | None, ...]:
        tables = self.layers.value(("dataset", "transform"), [])
        if not isinstance(tables, list):
            self.add("dataset.transform", "expected a list of tables: write [[dataset.transform]] with two brackets")
            return ()
        places = (("dataset", "transform", index) for index in range(len(tables)))
        return tuple(self.component("transform", item, place) for item, place in zip(tables, places, strict=True))

    def component(
        self, kind: str, table: Any, path: Place, base: type | None = None, inside: tuple[type, ...] = ()
    ) -> Component | None:
        """The component that a table with `use` says; `base` is what it must be, `inside` what it stands in."""
        if not isinstance(table, dict):
            self.add(dotted(path), f"expected a table with use = {self.names(kind)}, got {type(table).__name__}")
            return None
        use = table.get("use")
        if not isinstance(use, str):
            self.add(f"{dotted(path)}.use", f"missing key: write use = {self.names(kind)}")
            return None
        try:
            cls = self.registry.find(kind, self.chosen(use, path))
            problem = _misplaced(cls, base, inside)
        except PluginError as error:
            problem = error.what
        if problem:
            self.add(f"{dotted(path)}.use", problem)
            return None
        made: Component | None = self.structured(
            cls, {k: v for k, v in table.items() if k != "use"}, path, (*inside, cls)
        )
        return made

    def chosen(self, use: str, path: Place) -> str:
        """A lock file knows which distribution brought what it names, though another brings that name by now."""
        lock = self.layers.table.get("lock")
        brought = lock.get("brought_by") if isinstance(lock, dict) else None
        by = brought.get(as_key(path)) if isinstance(brought, dict) else None
        return f"{by}:{use}" if isinstance(by, str) and self.registry.named(f"{by}:{use}") else use

    def structured(self, cls: type[Any], table: Any, path: Place, inside: tuple[type, ...] = ()) -> Any:
        def hold(base: type[ByUse], value: Any, place: Place) -> Any:
            return self.component(base.kind, value, place, base, inside) or FAILED

        try:
            located = self.layers.located(cls, table, path, hold)
        except InputError as error:  # its annotations cannot be read
            self.add(dotted(path), str(error))
            return None
        made, problems = structure(cls, located, dotted(path))
        self.problems += problems
        return made


def _misplaced(cls: type[Component], base: type | None, inside: tuple[type, ...]) -> str | None:
    """Why a component cannot stand where it does."""
    if base is not None and not issubclass(cls, base):
        return f'"{cls.name}" is no {base.__name__}'
    if cls in inside:
        return f'"{cls.name}" stands inside itself: a component cannot hold another of its own class'
    return None
