"""The commands that run a recipe and look at what is installed: `run`, `plugins` and `recipe`."""

from collections.abc import Sequence

import click

from loraplug import hookimpl
from loraplug_cli.plugins import plugins
from loraplug_cli.recipes import recipe
from loraplug_cli.run import run


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """One command, two groups."""
    return [run, plugins, recipe]
