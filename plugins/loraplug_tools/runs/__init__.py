"""Looking at runs: `runs list`, `runs show` and `runs compare` back at them, `runs watch` while they are at work."""

from collections.abc import Sequence

import click

from loraplug import hookimpl
from loraplug_tools.runs.commands import runs


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """One group."""
    return [runs]
