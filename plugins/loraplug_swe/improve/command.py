"""`loraplug improve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from loraplug import RecipeCommand
from loraplug_swe.improve.options import Improve

if TYPE_CHECKING:
    from loraplug import App


@click.command(name="improve", cls=RecipeCommand, tables={"improve": Improve})
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key: improve.rounds=1.")
@click.option(
    "--fresh", is_flag=True, help="Begin the rounds anew; earlier ones are moved aside, the first training is kept."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_obj
def improve(app: App, recipe: Path, settings: tuple[str, ...], fresh: bool, as_json: bool) -> None:
    """Train by RECIPE, then in rounds: ask the model about bugs, test its answers, train on what passed.

    Each round is kept only if it fixes more bugs in functions that were never trained on. What was stopped goes on
    where it was. The table [improve] of the recipe says how many rounds, and how.
    """
    from loraplug_swe.improve.start import start

    start(app, recipe, settings, fresh, as_json)
