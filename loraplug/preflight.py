"""What would stop a run, found before its first work: every stage is asked, and all problems are told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from loraplug.components import Component
from loraplug.context import Run
from loraplug.errors import LoraplugError, Problem, RecipeError
from loraplug.recipe import Recipe
from loraplug.registry import Registry, report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TODO = "mend these; nothing was loaded yet"


def preflight(recipe: Recipe, run: Run, registry: Registry, stages: Sequence[str], *, deep: bool = False) -> None:
    """Ask the components of these stages what would stop them.

    Args:
        stages: kinds of component, such as "dataset" and "exporter".
        deep: ask of a model without weights as well, which takes torch and seconds.

    Raises:
        RecipeError: with every problem found.
    """
    parts = list(_parts(recipe, stages))
    found = [problem for path, part in parts for problem in _asked(registry, part, path, part.preflight, run, recipe)]
    if deep:
        found += _deep(recipe, run, registry, parts)
    if found:
        raise RecipeError(dict.fromkeys(found), where=recipe.file, todo=_TODO)


def _parts(recipe: Recipe, stages: Sequence[str]) -> Iterator[tuple[str, Component]]:
    """Components with their paths in the recipe."""
    for kind in stages:
        part = getattr(recipe, kind)
        if kind == "exporter":
            yield from ((f"exporter[{index}]", one) for index, one in enumerate(part))
        elif part is not None:
            yield kind, part


def _deep(recipe: Recipe, run: Run, registry: Registry, parts: Sequence[tuple[str, Component]]) -> Iterator[Problem]:
    made: list[PreTrainedModel] = []

    def empty() -> Iterator[Problem]:
        if (model := recipe.model.load_empty(run)) is not None:
            made.append(model)
        yield from ()

    yield from _asked(registry, recipe.model, "model", empty)
    for path, part in parts if made else ():
        yield from _asked(registry, part, path, part.preflight_model, run, recipe, made[0])


def _asked(
    registry: Registry, part: Component, path: str, ask: Callable[..., Iterable[Problem]], *given: object
) -> Iterator[Problem]:
    """The problems one component tells, at their places in this recipe.

    Raises:
        LoraplugError: its plugin failed otherwise than in words.
    """
    try:
        for problem in ask(*given):
            yield Problem(_placed(problem.path, path), problem.message)
    except LoraplugError as error:
        yield as_problem(error, path)
    except Exception as error:
        own = next(entry.plugin for entry in registry.entries if entry.cls is type(part))
        text = " ".join(f"{type(error).__name__}: {error}".split())
        plugin = registry.blame(error) or own
        todo = f"see the whole error with --debug; {report(plugin)}"
        raise LoraplugError(f"plugin {plugin} failed: {text}", where=f"{path} {part.name}", todo=todo) from error


def _placed(told: str, path: str) -> str:
    """`exporter.repo`, which is all an exporter knows of its place, as `exporter[1].repo`."""
    kind = path.partition("[")[0]
    return path + told[len(kind) :] if kind != path and (told == kind or told.startswith(f"{kind}.")) else told


def as_problem(error: LoraplugError, path: str) -> Problem:
    """An error as one problem of a recipe: at the recipe key it names first, else at `path`."""
    where = error.where or ""
    key, _, rest = where.partition(" ")
    if key.partition(".")[0].partition("[")[0] != path.partition("[")[0]:
        key, rest = path, where
    what = f"{rest}: {error.what}" if rest else error.what
    return Problem(_placed(key, path), what + (f"; {error.todo}" if error.todo else ""))
