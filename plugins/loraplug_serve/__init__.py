"""Two ways to talk to a model: `chat` in the terminal, `web` in a browser."""

from collections.abc import Sequence

import click

from loraplug import hookimpl
from loraplug_serve.chat import chat
from loraplug_serve.web import web


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """`chat` and `web`."""
    return [chat, web]
