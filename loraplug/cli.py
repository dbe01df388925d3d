"""The command line's frame: every command comes from a plugin; here they are gathered, and errors become exit codes."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import signal
import sys
import warnings
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loraplug import LoraplugError, Registry, Reporter, Run, __version__, echo, load_registry
from loraplug_tables.secrets import redact

if TYPE_CHECKING:
    from loraplug import DatasetSource
    from loraplug.recipe import Recipe
    from loraplug.run import Pipeline
    from loraplug_tables.layers import Layers


_TERMINATED = 128 + signal.SIGTERM
_GO_ON = "the same command goes on with what is finished"


class App(click.Group):
    """What a command gets as its context object: everything installed, and a way from a recipe to a pipeline."""

    @cached_property
    def registry(self) -> Registry:
        """Everything installed; built once, when something asks for it."""
        return load_registry()

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names of all commands."""
        return sorted({str(command.name) for command, _ in self.registry.commands})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name, from whichever plugin brings it first."""
        return next((command for command, _ in self.registry.commands if command.name == name), None)

    def read_layers(self, path: Path, settings: tuple[str, ...] = ()) -> Layers:
        """A recipe's table with `.env` (of the working folder), environment and `--set` over it."""
        from loraplug.layers import read_layers

        dotenv: dict[str, str | None] = {}
        if Path(".env").is_file():
            from dotenv import dotenv_values

            dotenv = dotenv_values(".env")
        layers = read_layers(path, settings, dotenv)
        for name, value in dotenv.items():  # tokens for hubs and trackers; what is already set wins
            os.environ.setdefault(name, value or "")
        return layers

    def read_recipe(self, path: Path, settings: tuple[str, ...] = ()) -> Recipe:
        """The recipe with everything over it, every stage a component."""
        from loraplug.recipe import build

        return build(self.read_layers(path, settings), self.registry)

    def source(self, path: Path, settings: tuple[str, ...] = ()) -> tuple[DatasetSource, Run]:
        """What `[dataset]` of a recipe says, and a run for it; the recipe's other tables may be missing or wrong."""
        from loraplug.recipe import build_source

        source, name, seed = build_source(self.read_layers(path, settings), self.registry)
        return source, Run(name, seed, reporter=self.reporter())

    def pipeline(self, path: Path, settings: tuple[str, ...] = ()) -> Pipeline:
        """The recipe's stages, ready to run, reporting to the terminal."""
        from loraplug.lock import require_secrets
        from loraplug.run import Pipeline

        recipe = self.read_recipe(path, settings)
        require_secrets(recipe, self.registry)
        registry = self.registry.without(recipe.disabled, f"[plugins] disable of {path}")
        return Pipeline(recipe, registry, Run(recipe.run_name, recipe.seed, reporter=self.reporter()))

    def reporter(self) -> Reporter:
        """A reporter on the terminal's stderr."""
        from loraplug.terminal import TerminalReporter

        return TerminalReporter()


@click.group(
    cls=App,
    invoke_without_command=True,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, help="Show the version and leave; with --json, those of Python and libraries.")
@click.option("--json", "as_json", is_flag=True, hidden=True)
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
@click.pass_context
def cli(context: click.Context, version: bool, as_json: bool, debug: bool) -> None:  # noqa: ARG001 - see main()
    """Fine-tune language models with LoRA: one TOML recipe, six plugin stages."""
    context.obj = context.command
    if version:
        click.echo(json.dumps(_versions(), indent=2) if as_json else f"loraplug {__version__}")
        context.exit()
    if as_json:
        raise click.UsageError("--json belongs to --version, or behind the name of a command that has it")
    if context.invoked_subcommand is None:
        raise click.UsageError("Missing command.")


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 failed while working, 2 wrong input, 130 interrupted, 143 terminated."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    # torch and bitsandbytes each bring an OpenMP; while one's idle threads spin, the other's wait for a core: measured
    # on two busy cores, a 4-bit layer takes 80 times longer. Read when the libraries load; what the user set stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not debug:  # deprecations inside libraries are for their makers
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
    with suppress(ValueError):  # only a program's main thread may ask for signals
        signal.signal(signal.SIGTERM, _terminated)
    try:
        sys.exit(cli.main([word for word in given if word != "--debug"], "loraplug", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show(told := io.StringIO())
        echo(redact(told.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _stop(f"interrupted\n  next: {_GO_ON}", 130)
    except SystemExit as end:
        if end.code == _TERMINATED:
            _stop(f"terminated\n  next: {_GO_ON}", _TERMINATED)
        raise
    except LoraplugError as error:
        if debug:
            _show_traceback()
        _stop(str(error), error.exit_code)
    except Exception as error:  # a bug of ours or of a plugin, still one block
        if debug:
            _show_traceback()
            sys.exit(1)
        _stop(_failed(error), 1)


def _versions() -> dict[str, str | None]:
    """Versions of loraplug, Python and what loraplug requires; None for what is not installed."""
    from importlib.metadata import PackageNotFoundError, requires
    from importlib.metadata import version as of

    found: dict[str, str | None] = {"loraplug": __version__, "python": platform.python_version()}
    for needed in requires("loraplug") or ():
        if "extra ==" not in needed:
            name = re.split(r"[^A-Za-z0-9._-]", needed, maxsplit=1)[0]
            try:
                found[name] = of(name)
            except PackageNotFoundError:
                found[name] = None
    return found


def _show_traceback() -> None:
    import traceback

    echo(redact(traceback.format_exc()), err=True, nl=False)


def _failed(error: Exception) -> str:
    from loraplug.registry import report

    plugin = cli.registry.blame(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if plugin is None:
        return f"{text}\n  next: run it again with --debug and report what it says"
    return f"plugin {plugin} failed: {text}\n  next: see the whole error with --debug; {report(plugin)}"


def _terminated(number: int, frame: object) -> None:  # noqa: ARG001
    """SIGTERM ends the program as ctrl-c does, so that locks are let go and what was begun is removed."""
    sys.exit(_TERMINATED)


def _stop(text: str, code: int) -> None:
    echo("error: ", fg="red", nl=False, err=True)
    echo(redact(text), err=True)
    sys.exit(code)
