"""`loraplug recipe check` and `loraplug recipe show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from loraplug import Component

_settings = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a recipe key.")
_recipe = click.argument("path", metavar="RECIPE", type=click.Path(path_type=Path))


@click.group()
def recipe() -> None:
    """Check a recipe, or see what it comes to."""


@recipe.command()
@_recipe
@_settings
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def check(app: Any, path: Path, settings: tuple[str, ...], as_json: bool) -> None:
    """Say whether RECIPE can be run: every key known, every value of its type, every component installed."""
    found = app.read_recipe(path, settings)
    parts = {kind: part.name for kind, part in found.parts().items() if isinstance(part, Component)}
    parts["exporter"] = ", ".join(part.name for part in found.exporter)
    if as_json:
        return click.echo(json.dumps({"recipe": str(path), "ok": True, "run_name": found.run_name, "stages": parts}))
    click.echo(f"{path}: ok, run_name {found.run_name}")
    for kind, name in parts.items():
        click.echo(f"  {kind:10} {name}")
    return click.echo(f"\nNext: loraplug run {path}")


@recipe.command()
@_recipe
@_settings
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def show(app: Any, path: Path, settings: tuple[str, ...], as_json: bool) -> None:
    """Print RECIPE with every default written out."""
    from loraplug.lock import as_table

    table = as_table(app.read_recipe(path, settings), app.registry)
    if as_json:
        return click.echo(json.dumps(table, indent=2))
    import tomli_w

    return click.echo(tomli_w.dumps(table), nl=False)
