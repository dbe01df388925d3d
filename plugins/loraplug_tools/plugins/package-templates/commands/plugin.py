"""A loraplug plugin: see `part.py`."""

from collections.abc import Sequence

import click

from loraplug import hookimpl
from my_package.part import command

LORAPLUG_API = "2.0"


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """Provide `loraplug my-part`."""
    return [command]
