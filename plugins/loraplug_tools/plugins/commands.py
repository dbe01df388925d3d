"""`loraplug plugins list | show | new | check`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loraplug import KINDS as COMPONENTS
from loraplug import echo

if TYPE_CHECKING:
    from loraplug import App

KINDS = (*COMPONENTS, "commands", "events", "diagnostics")
"""What `plugins new` writes: the kinds of component, and the three further hooks."""

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def plugins() -> None:
    """List installed plugins, show their options, and create and check plugins of your own."""


@plugins.command("list")
@_json
@click.pass_obj
def list_(app: App, as_json: bool) -> None:
    """List each plugin's components and commands, with its distribution, version and status."""
    from loraplug_tools.plugins.listing import list_plugins

    echo(list_plugins(app.registry, as_json))


@plugins.command()
@click.argument("name")
@_json
@click.pass_obj
def show(app: App, name: str, as_json: bool) -> None:
    """Show a component: its plugin, options (type, default, description), and a recipe snippet.

    NAME is a component (`chat-template`), one of a distribution (`loraplug:swe`), or a plugin (`chat`).
    """
    from loraplug_tools.plugins.listing import show_plugin

    echo(show_plugin(app.registry, name, as_json))


@plugins.command()
@click.argument("name")
@click.option("--kind", required=True, type=click.Choice(KINDS), help="What the plugin provides.")
@click.option(
    "--into",
    default=".",
    type=click.Path(path_type=Path, file_okay=False),
    help="Create the package's folder in this folder.",
)
def new(name: str, kind: str, into: Path) -> None:
    """Create a package NAME with one plugin: typed, documented, and with passing tests.

    NAME is the distribution's name, such as `loraplug-yaml`. Existing files are never overwritten.
    """
    from loraplug_tools.plugins.scaffold import write_package

    folder = write_package(name, kind, into)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        echo(path)
    install = 'python -m pip install --editable ".[dev]"'
    echo(f"\nNext: cd {shlex.quote(str(folder))} && {install} && python -m pytest")


@plugins.command()
@click.argument("package")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME.OPTION=VALUE",
    help="Set an option of one of its components: yaml.path=rows.yaml.",
)
@_json
@click.pass_obj
def check(app: App, package: str, settings: tuple[str, ...], as_json: bool) -> int:
    """Run the conformance checks on the components of PACKAGE (a distribution or a plugin).

    Loads models and trains a tiny one, so it takes a while. Exits with 1 if a check fails.
    """
    from loraplug_tools.plugins.check import check_package, report

    findings = check_package(package, app.registry, settings)
    echo(report(findings, as_json))
    return int(any(finding.status == "failed" for finding in findings))
