"""Checks before a run: every stage reports what would stop it, and all problems are shown at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from loraplug.context import Run
from loraplug.errors import LoraplugError, Problem, RecipeError
from loraplug.plugin.components import KINDS, Component, Exporter, held_at
from loraplug.plugin.registry import Registry, report
from loraplug.recipe.recipe import DataSet, Recipe
from loraplug.recipe.validation import validation_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TODO = "correct these; nothing has been loaded yet"


def preflight(recipe: Recipe, run: Run, registry: Registry, stages: Sequence[str], *, deep: bool = False) -> None:
    """Ask the components of these stages what would stop them.

    Args:
        stages: kinds of component, such as "dataset" and "exporter".
        deep: ask of a model without weights as well, which takes torch and seconds.

    Raises:
        RecipeError: with every problem found.
    """
    parts = list(_parts(recipe, stages))
    views = {one.place: recipe.only(one.name) for one in recipe.sets}
    found = [
        problem
        for path, part in parts
        for problem in _asked(registry, part, path, part.preflight, run=run, recipe=_view(views, path) or recipe)
    ]
    found += _validation(recipe, run, registry) if "dataset" in stages else ()
    found += run.workers.preflight() if "dataset" in stages else ()
    found += _places(run, parts)
    found += _room(recipe, run, registry, parts)
    if deep:
        found += _deep(recipe, run, registry, parts)
    if found:
        raise RecipeError(dict.fromkeys(found), where=recipe.file, todo=_TODO)


def _parts(recipe: Recipe, stages: Sequence[str]) -> Iterator[tuple[str, Component]]:
    """Components with their paths in the recipe, those that components hold included."""
    for kind in stages:
        part = getattr(recipe, kind)
        outer = (
            [(f"exporter[{index}]", one) for index, one in enumerate(part)] if kind == "exporter" else [(kind, part)]
        )
        if kind == "dataset" and recipe.sets:
            outer = [placed for one in recipe.sets for placed in _of_set(one, recipe)]
        elif kind == "dataset":
            outer += [(f"dataset.transform[{index}]", one) for index, one in enumerate(recipe.transforms)]
        for path, one in outer:
            if one is not None:
                yield path, one
                yield from held_at(one, path)


def _of_set(one: DataSet, recipe: Recipe) -> Iterator[tuple[str, Component | None]]:
    yield one.place, one.source
    yield from ((f"{one.place}.transform[{index}]", part) for index, part in enumerate(one.transforms))
    if one.formatter != recipe.formatter:
        yield f"{one.place}.formatter", one.formatter


def _view(views: Mapping[str, Recipe], path: str) -> Recipe | None:
    """The recipe as what stands in one of several data sets sees it."""
    return next((view for place, view in views.items() if path == place or path.startswith(f"{place}.")), None)


def _validation(recipe: Recipe, run: Run, registry: Registry) -> Iterator[Problem]:
    """What would stop the reading of the rows that `[validation] path` names."""
    wanted = recipe.validation
    if wanted is None or wanted.path is None:
        return

    try:
        source = validation_source(recipe.dataset, wanted, registry)
    except LoraplugError as error:
        yield _as_problem(error, "validation.path")
        return
    for problem in _asked(registry, source, "validation", source.preflight, run=run, recipe=recipe):
        head, _, key = problem.path.partition(".")
        if problem.path == "validation":  # the formatter's word on the rows
            own = "; [validation] may have its own rename, {} for none, in place of that of [dataset]"
            message = f"read by {source.name}: {problem.message}{own if wanted.rename is None else ''}"
            yield evolve(problem, path="validation.path", message=message)
        else:
            yield evolve(problem, path=f"validation.{key}" if head == "dataset" and key else problem.path)


def _places(run: Run, parts: Sequence[tuple[str, Component]]) -> Iterator[Problem]:
    """Exporters whose artefact would lie where nothing can be written."""
    for path, part in parts:
        if isinstance(part, Exporter):
            folder = _nearest(part.place(run=run).parent)
            if not folder.is_dir():
                yield Problem(
                    path,
                    f"{folder}: is not a folder, so nothing can be written below it; choose another path",
                    exit_code=1,
                )
            elif not os.access(folder, os.W_OK):
                why = "Read-only file system" if _read_only(folder) else "Permission denied"
                yield Problem(path, f"{folder}: {why}; choose another path, or make it writable", exit_code=1)


def _read_only(folder: Path) -> bool:
    """Whether the file system that a folder lies on takes no writes; not known on Windows."""
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _room(recipe: Recipe, run: Run, registry: Registry, parts: Sequence[tuple[str, Component]]) -> Iterator[Problem]:
    """Disks with less room than all stages together will take of them."""
    wanted: dict[int, list[tuple[str, Path, int]]] = {}

    def ask(one: Component, place: str) -> Iterator[Problem]:
        if isinstance(one, Exporter) and one.place(run=run).exists():  # most likely made, and left as it is
            return
        for where, size in one.disk(run=run, recipe=recipe).items():
            folder = _nearest(where)
            if size > 0:
                wanted.setdefault(folder.stat().st_dev, []).append((place, folder, size))
        yield from ()

    for path, part in parts:
        yield from _asked(registry, part, path, ask, one=part, place=path)
    for told in wanted.values():
        needed, free = sum(size for _, _, size in told), shutil.disk_usage(told[0][1]).free
        if needed > free:
            path, folder, _ = max(told, key=lambda one: one[2])
            unit, name = (1e9, "GB") if needed >= 1e8 else (1e6, "MB")
            shares = ", ".join(f"{part} {size / unit:.2f}" for part, _, size in told)
            what = (
                f"{folder}: about {needed / unit:.2f} {name} will be written here ({shares}), "
                f"but only {free / unit:.2f} {name} are free"
            )
            yield Problem(path, f"{what}; free space, remove an exporter, or choose another disk", exit_code=1)


def _nearest(place: Path) -> Path:
    """The place itself or, of those above it, the first that is there."""
    return next((path for path in (place.absolute(), *place.absolute().parents) if path.exists()), Path.cwd())


def _deep(recipe: Recipe, run: Run, registry: Registry, parts: Sequence[tuple[str, Component]]) -> Iterator[Problem]:
    made: list[PreTrainedModel] = []

    def empty() -> Iterator[Problem]:
        if (model := recipe.model.load_empty(run=run)) is not None:
            made.append(model)
        yield from ()

    yield from _asked(registry, recipe.model, "model", empty)
    for path, part in parts if made else ():
        yield from _asked(registry, part, path, part.preflight_model, run=run, recipe=recipe, model=made[0])


def _asked(
    registry: Registry, part: Component, path: str, ask: Callable[..., Iterable[Problem]], **given: Any
) -> Iterator[Problem]:
    """The problems one component tells, at their places in this recipe.

    Raises:
        LoraplugError: its plugin failed otherwise than in words.
    """
    try:
        for problem in ask(**given):
            yield evolve(problem, path=_placed(problem.path, path, part))
    except LoraplugError as error:
        yield _as_problem(error, path, part)
    except Exception as error:
        own = next(entry.plugin for entry in registry.entries if entry.cls is type(part))
        text = " ".join(f"{type(error).__name__}: {error}".split())
        plugin = registry.blame(error) or own
        todo = f"see the full error with --debug; {report(plugin)}"
        raise LoraplugError(f"plugin {plugin} failed: {text}", where=f"{path} {part.name}", todo=todo) from error


def _placed(told: str, path: str, part: Component | None) -> str:
    """`exporter.repo`, which is all an exporter knows of its place, as `exporter[1].repo`; so inside components."""
    kinds = [path.partition("[")[0], *(kind for kind, base in KINDS.items() if isinstance(part, base))]
    for kind in kinds:
        if kind != path and (told == kind or told.startswith(f"{kind}.")):
            return path + told[len(kind) :]
    return told


def _as_problem(error: LoraplugError, path: str, part: Component | None = None) -> Problem:
    """An error at the recipe key that it names first, such as `model.id /a/folder`, else at `path`."""
    key = (error.where or "").partition(" ")[0]
    named = key.partition(".")[0].partition("[")[0] in (*KINDS, "validation")
    problem = Problem.of(error, key if named else path)
    return evolve(problem, path=_placed(problem.path, path, part))
