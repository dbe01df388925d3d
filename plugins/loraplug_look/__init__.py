"""Commands that look before training: `preview` shows the tokens, `plan` the figures."""

from __future__ import annotations

from collections.abc import Sequence

import click

from loraplug import hookimpl
from loraplug_look.plan import plan
from loraplug_look.preview import preview


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """Bring `preview` and `plan`."""
    return [preview, plan]
