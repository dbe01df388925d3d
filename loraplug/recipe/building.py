"""The second pass over a recipe: builds components from tables, strictly; reports all problems with their paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from loraplug.config.options import ByUse, expected
from loraplug.config.structure import FAILED, structure, unknown_key
from loraplug.config.tables import Layers, Place, Table, as_key, dotted
from loraplug.context import Run
from loraplug.data.mixture import Mix
from loraplug.data.schemas import mismatch
from loraplug.errors import InputError, PluginError, Problem, RecipeError
from loraplug.pipeline.distributed import Distributed
from loraplug.plugin.components import (
    TABLES,
    Component,
    DatasetSource,
    Formatter,
    Transform,
)
from loraplug.plugin.contracts import CORE_TABLES
from loraplug.plugin.registry import Registry
from loraplug.recipe.recipe import DataSet, Plugins, Recipe, Validation
from loraplug.recipe.validation import validation_source
from loraplug.workers.workers import Workers

_TRY = "see what exists with `loraplug plugins list` and `loraplug plugins show NAME`"
_OPTIONAL = ("validation", "quantizer")
_INSIDE = {"transform": "[[dataset.transform]]"} | {
    kind: f"[trainer.{kind}]" for kind in ("adapter", "lora", "optimizer", "scheduler")
}  # tables that stand in others
_SET_NAME = re.compile(r"(?=.*[A-Za-z_])[A-Za-z0-9_-]{1,64}")
_RUN_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


def build(layers: Layers, registry: Registry) -> Recipe:
    """Make the recipe's components.

    Raises:
        RecipeError: with every problem found.
    """
    builder = _Builder(layers, registry)
    recipe = builder.build()
    if recipe is not None:
        for part, view in recipe.components_seen():
            builder.problems += part.check(recipe=view)
        for made in recipe.tables.values():
            builder.problems += made.check(recipe=recipe) if hasattr(made, "check") else ()
        builder.problems = list(dict.fromkeys(builder.problems))  # one formatter is asked for each set
        builder.problems += [*_contracts(recipe), *_same_places(recipe)]
    if builder.problems or recipe is None:
        raise RecipeError(builder.problems, where=layers.file, todo=_TRY)
    return recipe


def build_source(
    layers: Layers, registry: Registry, named: str | None = None
) -> tuple[DatasetSource, tuple[Transform, ...], str, int, Workers]:
    """Make the source of `[dataset]` and its transforms alone, with a run's name, seed and workers, written or not.

    Args:
        named: of several `[[dataset]]`, the name of the one that is meant.

    Raises:
        RecipeError: with every problem found in them; what else the recipe holds is not looked at.
        InputError: there are several and none is named, or none of this name.
    """
    builder, table = _Builder(layers, registry), layers.table
    place = _named_place(table.get("dataset"), named, layers.file)
    source, transforms = builder.source(place), builder.transforms(place)
    name, seed = builder.run_name(table.get("run_name", "data")), builder.seed(table.get("seed", 42))
    workers = builder.workers()
    if builder.problems or not isinstance(source, DatasetSource):
        raise RecipeError(builder.problems, where=layers.file, todo=_TRY)
    return source, tuple(part for part in transforms if isinstance(part, Transform)), name, seed, workers


def _named_place(tables: Any, named: str | None, file: Path) -> Place:
    """The place of the `[dataset]` that is meant."""
    if not isinstance(tables, list):
        if named is not None:
            raise InputError(f'has one [dataset], which is not named "{named}"', where=file, todo="remove --dataset")
        return ("dataset",)
    names = [str(item.get("name")) if isinstance(item, dict) else "" for item in tables]
    if named not in names:
        what = "has several data sets" if named is None else f'has no data set named "{named}"'
        raise InputError(what, where=file, todo=f"choose one with --dataset: {', '.join(names)}")
    return ("dataset", names.index(named))


def build_part(layers: Layers, registry: Registry, kind: str) -> Any:
    """Make the component of one table alone; None where it is left out and may be.

    Raises:
        RecipeError: with every problem found in that table.
    """
    builder = _Builder(layers, registry)
    part = builder.part(kind)
    if builder.problems:
        raise RecipeError(builder.problems, where=layers.file, todo=_TRY)
    return part


def build_table(cls: type[Any], table: Table, registry: Registry) -> tuple[Any, list[Problem]]:
    """Make one component of a class, and those inside it, from a table without `use`; with every problem found."""
    builder = _Builder(Layers(Path("table"), Path.cwd()), registry)
    made = builder.structured(cls, table, (cls.kind,), (cls,))
    return (None if builder.problems else made), builder.problems


def _contracts(recipe: Recipe) -> Iterator[Problem]:
    """Stages of which one does not take what the other makes."""
    trainer = recipe.trainer
    formatters = {"formatter.use": recipe.formatter} if not recipe.sets else {}
    for one in recipe.sets:
        own = one.formatter is not recipe.formatter
        formatters[f"{one.place}.formatter.use" if own else "formatter.use"] = one.formatter
    for path, formatter in formatters.items():
        if wrong := mismatch(formatter.produces, trainer.consumes, formatter.name, trainer.name):
            yield Problem(path, f"{wrong}; choose another formatter or trainer")
    if (processes := Distributed.launched().world_size) > 1 and not trainer.distributed:
        yield Problem("trainer.use", f"{trainer.name} trains in one process, but {processes} were launched")
    made, names = trainer.makes(), {exporter.name for exporter in recipe.exporter}
    for index, exporter in enumerate(recipe.exporter):
        if made not in exporter.takes:
            what = f"{exporter.name} exports {_either(exporter.takes)}, but the trainer {trainer.name} makes {_A[made]}"
            yield Problem(f"exporter[{index}].use", f"{what}; remove it")
        for lacking in (name for name in exporter.needs if name not in names):
            what = f'{exporter.name} needs the export of {lacking}; also add [[exporter]] use = "{lacking}"'
            yield Problem(f"exporter[{index}].use", what)


_A = {"adapter": "an adapter", "model": "a whole model"}


def _either(kinds: Iterable[str]) -> str:
    return " or ".join(_A.get(kind, kind) for kind in sorted(kinds))


def _same_places(recipe: Recipe) -> Iterator[Problem]:
    """Two exporters that would put what they make at one place."""
    run, seen = Run(recipe.run_name, recipe.seed), dict[Path, int]()
    for index, exporter in enumerate(recipe.exporter):
        place = exporter.place(run=run).absolute()
        if (first := seen.setdefault(place, index)) != index:
            where = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
            message = f"would overwrite exporter[{first}] at {where}: set different paths, or remove one"
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
        known = {name: name for name in (*CORE_TABLES, *self.registry.tables)}
        for key in sorted(table.keys() - known.keys()):
            self.add(key, f"unknown key; write {_INSIDE[key]}" if key in _INSIDE else unknown_key(key, known))
        several = isinstance(table.get("dataset"), list)
        parts: dict[str, Any] = {
            kind: self.part(kind) for kind in TABLES if kind != "exporter" and not (several and kind == "dataset")
        }
        if several:
            parts["sets"] = sets = self.sets(table["dataset"], parts["formatter"])
            parts["dataset"] = sets[0].source if sets else None
        parts["transforms"] = parts["sets"][0].transforms if several and parts["sets"] else self.transforms()
        parts |= {"run_name": self.run_name(table.get("run_name")), "seed": self.seed(table.get("seed", 42))}
        parts["exporter"] = self.exporters(table.get("exporter", self.default_exporters()))
        if not isinstance(table.get("lock", {}), dict):
            self.add("lock", "expected a table: it is written by a run, into recipe.lock.toml")
        if "validation" in table:
            parts["validation"] = self.structured(Validation, table["validation"], ("validation",))
            self.check_validation(parts["dataset"], parts["validation"], several)
        parts["workers"] = self.workers()
        parts["mix"] = self.mix(several, parts.get("sets", ()))
        parts["tables"] = {
            name: self.structured(cls, table[name], (name,))
            for name, cls in self.registry.tables.items()
            if name in table
        }
        if self.problems:
            return None
        parts |= {"file": self.layers.file, "folder": self.layers.folder, "unfilled": self.layers.unfilled}
        return Recipe(lock=table.get("lock"), disabled=self.disabled, **parts)

    def workers(self) -> Any:
        table = self.layers.table.get("workers")
        return Workers() if table is None else self.structured(Workers, table, ("workers",))

    def sets(self, tables: list[Any], formatter: Any) -> tuple[DataSet, ...]:
        """The sets of `[[dataset]]`; those without a problem."""
        made, seen = [], dict[str, int]()
        if not tables:
            self.add("dataset", "has no table: write [[dataset]] with use and name")
        for index, item in enumerate(tables):
            place, at = ("dataset", index), f"dataset[{index}]"
            source, transforms = self.source(place), self.transforms(place)
            if not isinstance(item, dict):
                continue
            name, own = item.get("name"), formatter
            if not isinstance(name, str) or not _SET_NAME.fullmatch(name):
                rule = "letters, digits, dashes and underscores, not digits alone"
                self.add(f"{at}.name", f'missing key: write name = "…"; of several sets each has one ({rule})'
                         if name is None else f"{name!r} cannot name a set: use {rule}")  # fmt: skip
            elif seen.setdefault(name, index) != index:
                self.add(f"{at}.name", f'"{name}" is also the name of dataset[{seen[name]}]: names must be unique')
            if "formatter" in item:
                if isinstance(item["formatter"], dict) and isinstance(self.layers.value(("formatter",)), dict):
                    self.layers.inherit(("formatter",), (*place, "formatter"))
                own = self.component("formatter", self.layers.value((*place, "formatter")), (*place, "formatter"))
            share = self.share(item.get("share"), at)
            if isinstance(source, DatasetSource) and isinstance(own, Formatter) and None not in transforms:
                kept = tuple(part for part in transforms if isinstance(part, Transform))
                made.append(DataSet(str(name), at, source, own, kept, share))
        return tuple(made)

    def share(self, value: Any, at: str) -> float | None:
        if value is None:
            return None
        if type(value) not in (int, float) or not 0 <= value < float("inf"):
            self.add(f"{at}.share", f"{expected(float, value)}; 0 or more: the set's share, relative to the others")
            return None
        return float(value)

    def mix(self, several: bool, sets: tuple[DataSet, ...]) -> Mix:
        table = self.layers.table.get("mix")
        if table is not None and not several:
            self.add(
                "mix", "there is only one [dataset], so nothing to mix: write [[dataset]] with two brackets for several"
            )
        made = Mix() if table is None else self.structured(Mix, table, ("mix",))
        if not isinstance(made, Mix) or not sets or not several:
            return Mix()
        trained = [one for one in sets if not one.watched]
        shared = [one for one in trained if one.share is not None]
        if not trained:
            self.add("dataset", "every share is 0, so there are no rows to train on")
        for one in trained if shared else ():
            if one.share is None:
                self.add(
                    f"{one.place}.share", "missing key: other sets have a share; give each set one (0: validation only)"
                )
        if len(shared) > 1:
            if made.exhausted is None:
                self.add("mix.exhausted", 'missing key: write exhausted = "stop" (sets are sampled down to their '
                         'shares) or "repeat" (small ones are repeated)')  # fmt: skip
            if made.unit is None:
                self.add("mix.unit", 'missing key: write unit = "tokens" or "rows": what shares are measured in')
        elif len(trained) > 1 and made.how == "interleave":
            self.add("mix.how", "interleave needs a share for every set: write share = … in each [[dataset]]")
        elif len(trained) > 1 and not shared and (made.exhausted or made.unit):
            self.add("mix", "exhausted and unit apply to shares, but no set has one")
        return made

    def check_validation(self, training: Any, wanted: Any, several: bool = False) -> None:
        if several and wanted is not None and wanted.path is not None:
            todo = (
                "write it as a [[dataset]] with share = 0, which is used for validation only; fraction and rows apply "
                "to each set"
            )
            self.add("validation.path", f"is ambiguous with several sets; {todo}")
            return
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
            self.add("run_name", f"{value!r} cannot be a folder name: {rule}")
        return str(value)

    def seed(self, value: Any) -> Any:
        if type(value) is not int or not 0 <= value < 2**32:
            self.add("seed", f"{expected(int, value)}; from 0 to 4294967295")
        return value

    def part(self, kind: str) -> Component | None:
        if kind in self.layers.table:
            return self.source((kind,)) if kind == "dataset" else self.component(kind, self.layers.table[kind], (kind,))
        if kind not in _OPTIONAL:
            self.add(kind, f"missing table: write [{kind}] with use = {self.names(kind)}")
        return None

    def source(self, place: Place) -> Component | None:
        """The source of a `[dataset]` or `[[dataset]]`, without the keys in it that are the core's own."""
        if place == ("dataset",) and "dataset" not in self.layers.table:
            return self.part("dataset")
        own = {"transform"} if place == ("dataset",) else {"transform", "name", "share", "formatter"}
        table = self.layers.value(place)
        if isinstance(table, dict):
            table = {key: value for key, value in table.items() if key not in own}
        before = len(self.problems)
        made = self.component("dataset", table, place)
        for at, problem in enumerate(self.problems[before:], before):  # the source knows its own keys alone
            key = problem.path.removeprefix(f"{dotted(place)}.")
            if problem.message.startswith("unknown key;") and (near := get_close_matches(key, own, n=1)):
                self.problems[at] = Problem(problem.path, f"unknown key (did you mean {near[0]}?)")
        return made

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

    def transforms(self, under: Place = ("dataset",)) -> tuple[Component | None, ...]:
        tables = self.layers.value((*under, "transform"), [])
        if not isinstance(tables, list):
            at = dotted((*under, "transform"))
            self.add(at, "expected a list of tables: write [[dataset.transform]] with two brackets")
            return ()
        places = ((*under, "transform", index) for index in range(len(tables)))
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
        return f'"{cls.name}" is not a {base.__name__}'
    if cls in inside:
        return f'"{cls.name}" contains itself: a component cannot contain another of its own class'
    return None
