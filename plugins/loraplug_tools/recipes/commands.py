"""`loraplug recipe`: check, show, diff, schema and init."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loraplug import Component, InputError, atomic_output, echo
from loraplug_tools.recipes.run import as_given

if TYPE_CHECKING:
    from loraplug import App

_settings = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a recipe key.")
_recipe = click.argument("path", metavar="RECIPE", type=click.Path(path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def recipe() -> None:
    """Check, show, compare and create recipes."""


@recipe.command()
@_recipe
@_settings
@_json
@click.option("--deep", is_flag=True, help="Also build the model without weights; takes seconds.")
@click.option("--options", "alone", is_flag=True, help="Check keys and values only: RECIPE is for another machine.")
@click.pass_obj
def check(app: App, path: Path, settings: tuple[str, ...], as_json: bool, deep: bool, alone: bool) -> None:
    """Check whether RECIPE can be run: keys and values, components, files, disk and hub. Loads no model."""
    pipeline = app.pipeline(path, settings)
    if not alone:
        pipeline.preflight(deep=deep)
    found = pipeline.recipe
    parts = {kind: part.name for kind, part in found.parts().items() if isinstance(part, Component)}
    parts["exporter"] = ", ".join(part.name for part in found.exporter)
    if found.sets:
        names = ", ".join(f"{one.name} ({one.source.name}{_share(one.share)})" for one in found.sets)
        parts = parts | {"dataset": names}
    elif found.transforms:
        transforms = {"transform": ", ".join(part.name for part in found.transforms)}
        parts = {"dataset": parts.pop("dataset")} | transforms | parts
    if as_json:
        return echo(json.dumps({"recipe": str(path), "ok": True, "run_name": found.run_name, "stages": parts}))
    echo(f"{path}: ok, run_name {found.run_name}")
    for kind, name in parts.items():
        echo(f"  {kind:10} {name}")
    return echo(f"\nNext: loraplug run {as_given(path, settings)}")


def _share(share: float | None) -> str:
    return "" if share is None else f", share {share:g}"


@recipe.command()
@_recipe
@_settings
@_json
@click.option("--resolved", is_flag=True, help="A line a value, with where it was said.")
@click.pass_obj
def show(app: App, path: Path, settings: tuple[str, ...], as_json: bool, resolved: bool) -> None:
    """Print RECIPE with every default written out."""
    if resolved:
        return _show_resolved(app, path, settings, as_json)
    from loraplug import as_table

    table = as_table(app.read_recipe(path, settings), app.registry, commands=True)
    if as_json:
        return echo(json.dumps(table, indent=2))
    import tomli_w

    return echo(tomli_w.dumps(_escaped(table)), nl=False)


def _escaped(value: Any) -> Any:
    """What is printed is a recipe again, so `${` must not be taken for a variable's name."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def _show_resolved(app: App, path: Path, settings: tuple[str, ...], as_json: bool) -> None:
    from loraplug_tools.recipes.resolved import toml, values

    found = values(app, path, settings)
    if as_json:
        return echo(json.dumps([{"key": one.key, "value": one.value, "from": one.origin} for one in found], indent=2))
    lines = [(f"{one.key} = {toml(one.value)}", one.origin) for one in found]
    width = min(80, max(len(text) for text, _ in lines))
    return echo("\n".join(f"{text:{width}}  # {origin}" for text, origin in lines))


@recipe.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@_json
@click.pass_obj
def diff(app: App, first: Path, second: Path, as_json: bool) -> None:
    """Show the values in which two recipes differ, defaults included. Either may be a lock file."""
    from loraplug_tools.recipes.resolved import DEFAULT, Value, by_name, toml, values

    old, new = by_name(values(app, first)), by_name(values(app, second))
    nothing = Value("", None, "")
    pairs = {key: (old.get(key, nothing), new.get(key, nothing)) for key in [*old, *(new.keys() - old.keys())]}
    differing = {key: pair for key, pair in pairs.items() if pair[0].value != pair[1].value}
    if as_json:
        sides = ("a", "b")
        data = [
            {"key": key}
            | {side: {"value": one.value, "from": one.origin} for side, one in zip(sides, pair, strict=True)}
            for key, pair in differing.items()
        ]
        return echo(json.dumps(data, indent=2))
    if not differing:
        return echo("no difference")

    def said(one: Value) -> str:
        return toml(one.value) + (f" ({DEFAULT})" if one.origin == DEFAULT else "")

    echo(f"A  {first}\nB  {second}\n")
    for key, pair in differing.items():
        echo(f"{key}\n  A  {said(pair[0])}\n  B  {said(pair[1])}")
    return None


@recipe.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the schema to this file instead of printing it."
)
@click.pass_obj
def schema(app: App, output: Path | None) -> None:
    """Print a JSON schema of recipes for editors (Taplo, Even Better TOML); it covers all installed plugins."""
    from loraplug_tools.recipes.schema import schema as made

    text = json.dumps(made(app.registry), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        return echo(text, nl=False)
    with atomic_output(output) as fresh:
        fresh.write_text(text, encoding="utf-8", newline="\n")
    return echo(f'{output}\n\nNext: write "#:schema ./{output.name}" as the first line of a recipe beside it')


@recipe.command()
@click.option("--for", "purpose", type=click.Choice(["swe", "chat", "text"]), help="Kind of rows.")
@click.option("--data", type=click.Path(path_type=Path), help="Your data file: the recipe is made to fit it.")
@click.option("--rename", "renames", multiple=True, metavar="OLD=NEW", help="Rename a column of --data.")
@click.option("--model", help="Base model: owner/name on the hub, a folder or a .gguf file.")
@click.option("--yes", is_flag=True, help="Ask no questions; the default if stdin is not a terminal.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="recipe.toml", help="File to write; - prints the recipe."
)
@click.pass_obj
def init(
    app: App,
    purpose: str | None,
    data: Path | None,
    renames: tuple[str, ...],
    model: str | None,
    yes: bool,
    output: Path,
) -> None:
    """Write a commented starter recipe for a purpose (--for) or a data file (--data).

    An existing file is never overwritten.
    """
    from loraplug_tools.recipes.questions import Given, choices
    from loraplug_tools.recipes.starters import starter

    printed = str(output) == "-"
    if not printed and output.exists():
        raise InputError("already exists", where=output, todo="choose another file with -o, or move this one")
    chosen = choices(Given(purpose, data, renames, model, str(output)), app.registry, ask=not yes)
    text, found = starter(chosen), chosen.proposal
    if found is not None:
        told = f"{found.path}: {found.count}, shape {found.shape}, read by {found.use}"
        echo(told, err=printed)
        if found.unusable:
            some = "; ".join(found.unusable[:3])
            echo(f"{len(found.unusable)} of the first rows cannot be used and will be left out: {some}", err=printed)
    if printed:
        return echo(text, nl=False)
    with atomic_output(output) as fresh:
        fresh.write_text(text, encoding="utf-8", newline="\n")
    return echo(f"{output}: change the lines marked <--\n\nNext: loraplug recipe check {output}")
