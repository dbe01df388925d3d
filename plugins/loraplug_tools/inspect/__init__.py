"""Commands that look before training: `preview` shows the tokens, `plan` the figures."""

from __future__ import annotations

from collections.abc import Sequence

import click

from loraplug import hookimpl
from loraplug_tools.inspect.plan import plan
from loraplug_tools.inspect.preview import preview


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """Bring `preview` and `plan`."""
    return [preview, plan]
