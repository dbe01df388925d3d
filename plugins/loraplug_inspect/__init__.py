"""The commands that look at what is installed and at recipes: `plugins` and `recipe`."""

from collections.abc import Sequence

import click

from loraplug import hookimpl
from loraplug_inspect.plugins import plugins
from loraplug_inspect.recipes import recipe


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """Two command groups."""
    return [plugins, recipe]
