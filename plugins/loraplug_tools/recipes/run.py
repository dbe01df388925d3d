"""`loraplug run`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loraplug import InputError, echo, redact

if TYPE_CHECKING:
    from loraplug import App


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key: trainer.epochs=1.")
@click.option("--until", default="exporter", metavar="STAGE", help="Stop after this stage, for example formatter.")
@click.option("--fresh", is_flag=True, help="Start over; files of an earlier run of this name are moved aside.")
@click.option("--accept-encoding", is_flag=True, help="Run a lock file even if its rows are now encoded differently.")
@click.pass_obj
def run(app: App, recipe: Path, settings: tuple[str, ...], until: str, fresh: bool, accept_encoding: bool) -> None:
    """Run RECIPE: train on its data and write its exports. A run that was stopped resumes.

    Stages: dataset, formatter, model, quantizer, trainer, exporter.
    """
    stages = ("dataset", "formatter", "model", "quantizer", "trainer", "exporter")
    if until not in stages:
        raise InputError(f'no stage "{until}"', where="--until", todo=f"stages: {', '.join(stages)}")
    pipeline = app.pipeline(recipe, settings)
    outcome = pipeline.execute(until, fresh, accept_encoding)
    given = as_given(recipe, settings)
    if outcome.reached == "assisting":
        return None
    if outcome.reached not in ("trainer", "exporter"):
        return echo(f"Stopped after {outcome.reached}, as asked.\n\nNext: loraplug run {given}")
    echo(f"\n{pipeline.run.name}: {'done' if outcome.reached == 'exporter' else 'trained'}")
    for name, text in _summary(outcome.figures):
        echo(f"  {name:16} {text}")
    for name, path in [*outcome.artefacts.items(), ("run's folder", pipeline.run.folder)]:
        echo(f"  {name:16} {_shown(path)}")
    for sample in outcome.samples:
        for name, text in (("prompt", sample.prompt), ("before", sample.before), ("after", sample.after)):
            echo(f"\n--- {name} ---\n{_clipped(text)}")
    return echo(f"\nNext: loraplug {_next(app, given, pipeline.run.name, outcome)}")


def as_given(recipe: Path, settings: Sequence[str]) -> str:
    """The recipe and its settings as a shell takes them, for the next command; secrets are left out."""
    return redact(shlex.join([str(recipe), *(word for setting in settings for word in ("--set", setting))]))


def _summary(figures: Mapping[str, float]) -> list[tuple[str, str]]:
    lines = []
    if {"validation_loss_before", "validation_loss_after"} <= figures.keys():
        before, after = figures["validation_loss_before"], figures["validation_loss_after"]
        lines.append(("validation loss", f"{before:.3f} before, {after:.3f} after ({after / before - 1:+.0%})"))
    for key in [key for key in figures if key.startswith("validation_loss_before/")]:
        before, after = figures[key], figures[key.replace("_before/", "_after/")]
        lines.append(
            (f"  {key.partition('/')[2]}", f"{before:.3f} before, {after:.3f} after ({after / before - 1:+.0%})")
        )
    if "trained_tokens" in figures:
        lines.append(("trained tokens", f"{figures['trained_tokens']:,.0f} in {figures.get('seconds', 0):,.0f} s"))
    if "tokens_per_second" in figures:
        lines.append(("speed", f"{figures['tokens_per_second']:,.0f} tokens/s, prompts included"))
    if "peak_memory_bytes" in figures:
        loading = figures.get("loading_memory_bytes")
        apart = "" if loading is None else f" training, {loading / 1e9:.1f} GB loading"
        lines.append(("peak memory", f"{figures['peak_memory_bytes'] / 1e9:.1f} GB{apart}"))
    return lines


def _next(app: App, given: str, name: str, outcome: Any) -> str:
    if outcome.reached == "trainer":
        return f"run {given}"
    commands = app.list_commands(click.get_current_context())
    for config in ("config.json", "adapter_config.json"):  # a merged model loads faster than an adapter and its base
        folders = [path for path in outcome.artefacts.values() if (path / config).exists()]
        if folders and "chat" in commands:
            return f"chat {_shown(folders[-1])}"
    return f"runs show {name}" if "runs" in commands else f"recipe show {given}"


def _clipped(text: str, most: int = 16) -> str:
    lines = text.strip().splitlines()
    dots = [f"… ({len(lines) - most} lines)"] if len(lines) > most else []
    return "\n".join(line[:160] for line in [*dots, *lines[-most:]])


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
