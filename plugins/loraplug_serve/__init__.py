"""Ways to talk to a model: `chat` in the terminal, `web` in a browser, `serve` for programs."""

from collections.abc import Sequence

import click

from loraplug import hookimpl
from loraplug_serve.chat import chat
from loraplug_serve.server.command import serve
from loraplug_serve.web import web


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """`chat`, `web` and `serve`."""
    return [chat, web, serve]
