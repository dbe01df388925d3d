"""`loraplug plugins …`: what is installed; and what plugin authors need, a first package and conformance checks."""

from collections.abc import Sequence

import click

from loraplug import hookimpl
from loraplug_tools.plugins.commands import plugins


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """The group `plugins`."""
    return [plugins]
