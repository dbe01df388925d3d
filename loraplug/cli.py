"""The command line: `run`, and whatever commands plugins bring. The only place that prints or exits."""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loraplug import __version__
from loraplug.context import Progress, Reporter, Run
from loraplug.errors import InputError, LoraplugError

if TYPE_CHECKING:
    from loraplug.recipe import Recipe
    from loraplug.registry import Registry
    from loraplug.run import Outcome


class Cli(click.Group):
    """Commands of the core and of plugins; the registry is built once, when something asks for it."""

    @cached_property
    def registry(self) -> Registry:
        """Everything installed."""
        from loraplug.registry import load_registry

        return load_registry()

    def read_recipe(self, path: Path, settings: tuple[str, ...] = ()) -> Recipe:
        """A recipe with `.env` (of the working folder), environment and `--set` over it."""
        from loraplug.layers import read_layers
        from loraplug.recipe import build

        dotenv = {}
        if Path(".env").is_file():
            from dotenv import dotenv_values

            dotenv = dotenv_values(".env")
            for name, value in dotenv.items():  # tokens for hubs and trackers; what is already set wins
                os.environ.setdefault(name, value or "")
        return build(read_layers(path, settings, dotenv), self.registry)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *(str(command.name) for command, _ in self.registry.commands)})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The core's command of that name, else a plugin's."""
        brought = (command for command, _ in self.registry.commands if command.name == name)
        return super().get_command(ctx, name) or next(brought, None)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="loraplug %(version)s")
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:  # noqa: ARG001 - main() looks for --debug wherever it stands
    """Fine-tune language models with LoRA: one TOML recipe, six plugin stages."""
    context.obj = context.command


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a recipe key, e.g. trainer.epochs=1."
)
@click.option(
    "--until", default="exporter", metavar="STAGE", help="Stop after dataset, formatter, model, quantizer or trainer."
)
@click.option("--fresh", is_flag=True, help="Start over, replacing what an earlier run of this name made.")
@click.pass_obj
def run(app: Cli, recipe: Path, settings: tuple[str, ...], until: str, fresh: bool) -> None:
    """Run RECIPE: data in, adapter and exports out. A run that was stopped goes on where it was."""
    from loraplug.run import STAGES, Pipeline

    if until not in STAGES:
        raise InputError(f'no stage "{until}"', where="--until", todo=f"stages: {', '.join(STAGES)}")
    read = app.read_recipe(recipe, settings)
    this = Run(read.run_name, read.seed, reporter=TerminalReporter())
    outcome = Pipeline(read, app.registry, this).execute(until, fresh)
    show_outcome(outcome, this, read, chat="chat" in app.list_commands(click.get_current_context()))


class TerminalReporter(Reporter):
    """Draws to stderr: bars on a terminal, a line now and then into a log."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    @contextmanager
    def progress(self, title: str, total: float | None) -> Iterator[Progress]:
        if not self.console.is_terminal:
            yield _Lines(self, title, total)
            return
        from rich import progress

        columns = [progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn()]
        columns += [progress.TextColumn("{task.fields[figures]}"), progress.TimeRemainingColumn()]
        with progress.Progress(*columns, console=self.console, transient=False) as bars:
            task = bars.add_task(title, total=total, figures="")
            yield _Bar(bars, task)


class _Bar(Progress):
    def __init__(self, bars: Any, task: Any) -> None:
        self.bars, self.task = bars, task

    def advance(self, steps: float = 1, **figures: object) -> None:
        shown = {"figures": _figures(figures)} if figures else {}
        self.bars.update(self.task, advance=steps, **shown)


class _Lines(Progress):
    every = 10.0  # seconds between lines

    def __init__(self, reporter: Reporter, title: str, total: float | None) -> None:
        self.reporter, self.title, self.total = reporter, title, total
        self.done, self.begun = 0.0, time.monotonic()
        self.told = self.begun

    def advance(self, steps: float = 1, **figures: object) -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.told >= self.every or self.done == self.total:
            self.told = now
            left = (now - self.begun) / self.done * (self.total - self.done) if self.total and self.done else None
            of = f"/{self.total:g}" if self.total else ""
            rest = f", {left:.0f} s left" if left else ""
            self.reporter.say(f"{self.title}: {self.done:g}{of} {_figures(figures)}{rest}".rstrip())


def _figures(figures: dict[str, object]) -> str:
    parts = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
    return "  ".join(parts).replace("_", " ")


def show_outcome(outcome: Outcome, this: Run, recipe: Recipe, chat: bool) -> None:
    """The summary at the end of a run, on stdout."""
    if outcome.reached not in ("trainer", "exporter"):
        return click.echo(f"Stopped after {outcome.reached}, as asked. Go on with: loraplug run {recipe.file}")
    figures, lines = outcome.figures, []
    if {"validation_loss_before", "validation_loss_after"} <= figures.keys():
        before, after = figures["validation_loss_before"], figures["validation_loss_after"]
        lines.append(("validation loss", f"{before:.3f} before, {after:.3f} after ({after / before - 1:+.0%})"))
    if "trained_tokens" in figures:
        lines.append(("trained tokens", f"{figures['trained_tokens']:,.0f} in {figures.get('seconds', 0):,.0f} s"))
    if "tokens_per_second" in figures:
        lines.append(("speed", f"{figures['tokens_per_second']:,.0f} tokens/s"))
    if "peak_memory_bytes" in figures:
        lines.append(("peak memory", f"{figures['peak_memory_bytes'] / 1e9:.1f} GB"))
    lines += [(name, str(_shown(path))) for name, path in outcome.artefacts.items()]
    lines.append(("run's folder", str(_shown(this.folder))))
    click.echo(f"\n{this.name}: done" if outcome.reached == "exporter" else f"\n{this.name}: trained")
    for name, text in lines:
        click.echo(f"  {name:16} {text}")
    for sample in outcome.samples:
        for name, text in (("prompt", sample.prompt), ("before", sample.before), ("after", sample.after)):
            click.echo(f"\n--- {name} ---\n{_clipped(text)}")
    folders = [path for path in outcome.artefacts.values() if (path / "config.json").exists()]
    words = f"chat {_shown(folders[-1])}" if chat and folders else f"recipe show {recipe.file}"
    click.echo(f"\nNext: loraplug {f'run {recipe.file}' if outcome.reached == 'trainer' else words}")
    return None


def _clipped(text: str, lines: int = 16) -> str:
    all_lines = text.strip().splitlines()
    dots = [f"… ({len(all_lines) - lines} more lines)"] if len(all_lines) > lines else []
    return "\n".join(line[:160] for line in [*dots, *all_lines[-lines:]])


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 failed while working, 2 wrong input, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    # torch and bitsandbytes each bring an OpenMP; while one's idle threads spin, the other's wait for a core: measured
    # here, a 4-bit layer takes 80 times longer. The libraries read this when they load; what the user set stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not debug:  # deprecations inside libraries are for their makers
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
    try:
        sys.exit(cli.main([word for word in given if word != "--debug"], "loraplug", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted; the same command goes on from here", err=True)
        sys.exit(130)
    except LoraplugError as error:
        if debug:
            traceback.print_exc()
        click.secho("error: ", fg="red", nl=False, err=True)
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except Exception as error:  # a bug of ours, still one block
        if debug:
            raise
        click.echo(
            f"error: {type(error).__name__}: {error}\n  next: run it again with --debug and report what it says",
            err=True,
        )
        sys.exit(1)
