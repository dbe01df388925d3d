"""The commands `doctor` and `completion`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import asdict

from loraplug import Finding, InputError, LoraplugError, Plugin, Run, echo, redact, report

if TYPE_CHECKING:
    from loraplug import App

_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("error", "red")}


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a recipe key.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a list of JSON objects.")
@click.pass_obj
def doctor(app: App, recipe: Path | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Check this machine and the installed packages; with RECIPE, also whether it can run here.

    Exits with 2 if something prevents runs. Lower speed or missing features are warnings.
    """
    findings = [*_diagnosed(app), *_plugins(app)]
    if recipe is not None:
        findings += _of_recipe(app, recipe, settings)
    if as_json:
        echo(redact(json.dumps([asdict(finding) for finding in findings], indent=2)))
    else:
        _show(findings)
    if any(finding.severity == "error" for finding in findings):
        raise SystemExit(2)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes loraplug's commands, options and files in SHELL.

    bash: add `eval "$(loraplug completion bash)"` to ~/.bashrc; zsh: the same with zsh in ~/.zshrc;
    fish: loraplug completion fish > ~/.config/fish/completions/loraplug.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise InputError(f"click knows no completion for {shell}", where="completion", todo="try bash")
    echo(kind(click.get_current_context().find_root().command, {}, "loraplug", "_LORAPLUG_COMPLETE").source())


def _diagnosed(app: App) -> Iterator[Finding]:
    run = Run("doctor", 42)
    for diagnostic, plugin in sorted(app.registry.diagnostics, key=lambda pair: pair[1].name != "doctor"):
        try:
            yield from diagnostic(run)
        except Exception as error:  # a plugin's check that fails is a finding, and the others are still asked
            yield _failed(plugin, error)


def _failed(plugin: Plugin, error: Exception) -> Finding:
    return Finding("plugins", f"a check of {plugin} failed: {error!r}", "warning", report(plugin))


def _plugins(app: App) -> Iterator[Finding]:
    plugins = app.registry.plugins
    working = [plugin for plugin in plugins if plugin.status == "ok"]
    others = sorted({plugin.distribution for plugin in working} - {"loraplug"})
    brought = f"; other packages: {', '.join(others)}" if others else ""
    seconds = sum(plugin.seconds for plugin in plugins)
    yield Finding("plugins", f"{len(working)} work, loaded in {seconds:.2f} s{brought}")
    for plugin in working:
        if plugin.notes:
            todo = f"LORAPLUG_DISABLE={plugin.name} disables it; {report(plugin)}"
            yield Finding("plugins", f"{plugin} {', '.join(plugin.notes)}", "warning", todo)
    for plugin in plugins:
        if plugin.status != "ok":
            todo = report(plugin) if plugin.status == "broken" else ""
            yield Finding("plugins", f"{plugin} is {plugin.status}: {plugin.reason}", "warning", todo)


def _of_recipe(app: App, recipe: Path, settings: tuple[str, ...]) -> Iterator[Finding]:
    try:
        pipeline = app.pipeline(recipe, settings)
        pipeline.preflight()
    except InputError as error:
        problems = getattr(error, "problems", None) or [error.what]
        for problem in problems:
            yield Finding("recipe", str(problem), "error", error.todo or "")
        return
    except LoraplugError as error:
        yield Finding("recipe", error.what, "error", error.todo or "")
        return
    yield Finding("recipe", f"{recipe} can run here, run_name {pipeline.run.name}")


def _show(findings: Iterable[Finding]) -> None:
    shown = ""
    for finding in findings:
        mark, colour = _MARKS[finding.severity]
        subject = finding.subject if finding.subject != shown else ""
        echo(f"{subject:12} ", nl=False)
        echo(f"{mark:8}", fg=colour, nl=False)
        echo(f" {redact(finding.text)}")
        if finding.todo:
            echo(f"{'':22}next: {redact(finding.todo)}")
        shown = finding.subject
