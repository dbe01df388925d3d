"""`loraplug web`."""

from __future__ import annotations

from typing import Any

import click


@click.command()
@click.argument("model")
@click.pass_obj
def web(app: Any, model: str) -> None:
    """x."""
