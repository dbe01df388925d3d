"""The context object of commands: the installed plugins, and building pipelines from recipes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loraplug.context import Reporter, Run
from loraplug.plugin.registry import Registry, load_registry
from loraplug.printing import echo

if TYPE_CHECKING:
    from loraplug.config.tables import Layers
    from loraplug.pipeline.pipeline import Pipeline
    from loraplug.plugin.components import DatasetSource, Transform
    from loraplug.recipe.recipe import Recipe

VERY_SLOW = 2.0
"""Loading times from this many seconds are reported by every command."""


class RecipeCommand(click.Command):
    """A command that has tables of its own in recipes, which are read as strictly as a stage's.

    @click.command(cls=RecipeCommand, tables={"improve": ImproveOptions})

    A table is made into its class, a frozen attrs class of options, and stands in `Recipe.tables`. Runs do not depend
    on it. Where the class has a method `check(recipe)`, its problems are told with those of the stages.
    """

    def __init__(self, *args: Any, tables: Mapping[str, type], **more: Any) -> None:
        super().__init__(*args, **more)
        self.recipe_tables = dict(tables)


class App(click.Group):
    """The context object of commands: the installed plugins, and building pipelines from recipes."""

    @cached_property
    def registry(self) -> Registry:
        """The installed plugins; built on first use. Slow plugins are reported."""
        found = load_registry()
        for plugin in found.plugins:
            if plugin.seconds >= VERY_SLOW:
                todo = f"LORAPLUG_DISABLE={plugin.name} disables it"
                echo(f"plugin {plugin} took {plugin.seconds:.1f} s to load; {todo}", err=True)
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names of all commands."""
        return sorted({str(command.name) for command, _ in self.registry.commands})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name; an error if several plugins define it."""
        return self.registry.command(name)

    def read_layers(self, path: Path, settings: tuple[str, ...] = ()) -> Layers:
        """A recipe's table, overridden by `.env` (of the working folder), environment and `--set`."""
        from loraplug.recipe.layers import read_layers

        dotenv: dict[str, str | None] = {}
        if Path(".env").is_file():
            from dotenv import dotenv_values

            dotenv = dotenv_values(".env")
        layers = read_layers(path, settings, dotenv)
        for name, value in dotenv.items():  # tokens for hubs and trackers; what is already set wins
            os.environ.setdefault(name, value or "")
        return layers

    def read_recipe(self, path: Path, settings: tuple[str, ...] = ()) -> Recipe:
        """The recipe with all overrides, every stage a component."""
        from loraplug.recipe.building import build

        return build(self.read_layers(path, settings), self.registry)

    def source(
        self, path: Path, settings: tuple[str, ...] = (), named: str | None = None
    ) -> tuple[DatasetSource, tuple[Transform, ...], Run]:
        """What `[dataset]` of a recipe says, and a run for it; the recipe's other tables may be missing or wrong.

        `named` tells which of several data sets is meant.
        """
        from loraplug.recipe.building import build_source

        source, transforms, name, seed, workers = build_source(self.read_layers(path, settings), self.registry, named)
        return source, transforms, Run(name, seed, reporter=self.reporter(), workers=workers)

    def pipeline(self, path: Path, settings: tuple[str, ...] = ()) -> Pipeline:
        """The recipe's stages, ready to run, reporting to the terminal."""
        return self.pipeline_of(self.read_layers(path, settings))

    def pipeline_of(self, layers: Layers) -> Pipeline:
        """As `pipeline`, of a table that a command has changed since it was read."""
        from loraplug.pipeline.pipeline import Pipeline
        from loraplug.recipe.building import build
        from loraplug.recipe.lock import require_secrets

        recipe = build(layers, self.registry)
        require_secrets(recipe, self.registry)
        registry = self.registry.without(recipe.disabled, f"[plugins] disable of {layers.file}")
        return Pipeline(
            recipe, registry, Run(recipe.run_name, recipe.seed, reporter=self.reporter(), workers=recipe.workers)
        )

    def reporter(self) -> Reporter:
        """A reporter on the terminal's stderr."""
        from loraplug.terminal import TerminalReporter

        return TerminalReporter()
