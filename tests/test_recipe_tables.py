"""Tables of recipes that commands bring: read, checked and shown as strictly as a stage's, and of no run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import click
import pytest
from attrs import field, frozen, validators

from loraplug import Doc, Problem, RecipeCommand, Registry, as_table, build, hookimpl, load_registry
from loraplug.errors import RecipeError
from loraplug.recipe.layers import read_layers
from loraplug_tools.recipes.schema import schema


@frozen
class Mine:
    """Options of a command."""

    times: Annotated[int, Doc("how often")] = field(default=1, validator=validators.ge(1))
    file: Annotated[Path | None, Doc("a file")] = None

    def check(self, recipe: Any) -> Iterator[Problem]:
        """Twice is refused."""
        if self.times == 2:
            yield Problem("mine.times", f"is not for {recipe.run_name}")


def plugin(name: str, **tables: type) -> tuple[str, Any]:
    """A plugin with a command of that name and these tables."""
    command = click.command(name=name, cls=RecipeCommand, tables=tables)(lambda: None)
    return name, SimpleNamespace(loraplug_commands=hookimpl(lambda: [command]))


@pytest.fixture(scope="module")
def registry() -> Registry:
    """All built-in plugins, and one with a table."""
    return load_registry([plugin("mine", mine=Mine)])


def read(recipe: Path, registry: Registry, *settings: str) -> Any:
    """The recipe as it is built."""
    return build(read_layers(recipe, settings, environ=False), registry)


def test_a_table_is_made_and_no_run_depends_on_it(recipe: Path, registry: Registry) -> None:
    """Paths start from the recipe's folder; what names a run is without the table, what shows a recipe is with it."""
    plain = read(recipe, registry)
    recipe.write_text(recipe.read_text() + '[mine]\ntimes = 3\nfile = "a.txt"\n')
    found = read(recipe, registry)
    assert found.tables == {"mine": Mine(3, recipe.parent / "a.txt")} and plain.tables == {}
    assert as_table(found, registry) == as_table(plain, registry)
    assert as_table(found, registry, commands=True)["mine"] == {"times": 3, "file": "a.txt"}
    described = schema(registry)["properties"]["mine"]
    assert described["description"] == "Options of a command." and not described["additionalProperties"]


def test_what_is_wrong_in_it_is_told_with_the_rest(recipe: Path, registry: Registry) -> None:
    """Unknown keys, wrong values and what its own check says; a table that nobody brings is an unknown key."""
    with pytest.raises(RecipeError) as error:
        read(recipe, registry, "mine.time=3", "trainer.epoch=1")
    assert "mine.time: unknown key (did you mean times?)" in str(error.value)
    assert "trainer.epoch: unknown key" in str(error.value)
    with pytest.raises(RecipeError, match=r"mine\.times: is not for tiny"):
        read(recipe, registry, "mine.times=2")
    with pytest.raises(RecipeError, match=r"mine\.times: .*>= 1"):
        read(recipe, registry, "mine.times=0")
    with pytest.raises(RecipeError, match="mine: unknown key"):
        read(recipe, load_registry(), "mine.times=3")


def test_names_of_tables_are_no_ones_else(recipe: Path) -> None:
    """Neither the core's, nor those of another command; what is no table's class is refused, too."""
    found = load_registry([
        plugin("core", dataset=Mine), plugin("odd", odd=int), plugin("first", mine=Mine), plugin("second", mine=Mine),
    ])  # fmt: skip
    reasons = {one.name: str(one.reason) for one in found.plugins if one.status == "broken"}
    assert 'cannot have a table "dataset"' in reasons["core"] and "@attrs.frozen" in reasons["odd"]
    assert 'brings a table "mine", as first' in reasons["second"] and "first" not in reasons
