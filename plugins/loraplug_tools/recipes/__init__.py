"""The commands that run a recipe and look at one: `run` and `recipe`."""

from collections.abc import Sequence

import click

from loraplug import hookimpl
from loraplug_tools.recipes.commands import recipe
from loraplug_tools.recipes.run import run


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """A command and a group."""
    return [run, recipe]
