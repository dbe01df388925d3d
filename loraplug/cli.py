"""The command line's frame: every command comes from a plugin; here errors become exit codes."""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import re
import signal
import sys
import warnings
from contextlib import suppress

import click

from loraplug import LoraplugError, __version__, echo
from loraplug.app import App
from loraplug.config.secrets import redact

_TERMINATED = 128 + signal.SIGTERM
_GO_ON = "run the same command to continue; finished work is kept"


@click.group(
    cls=App,
    invoke_without_command=True,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, help="Show the version and exit; with --json, also those of Python and libraries."
)
@click.option("--json", "as_json", is_flag=True, hidden=True)
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
@click.pass_context
def cli(context: click.Context, version: bool, as_json: bool, debug: bool) -> None:  # noqa: ARG001 - see main()
    """Fine-tune language models with LoRA: one TOML recipe, six plugin stages."""
    context.obj = context.command
    if version:
        echo(json.dumps(_versions(), indent=2) if as_json else f"loraplug {__version__}")
        context.exit()
    if as_json:
        raise click.UsageError("--json goes with --version, or after the name of a command that supports it")
    if context.invoked_subcommand is None:
        raise click.UsageError("Missing command.")


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 success, 1 failure, 2 invalid input, 130 interrupted, 143 terminated."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    # torch and bitsandbytes each bring an OpenMP; while one's idle threads spin, the other's wait for a core: measured
    # on two busy cores, a 4-bit layer takes 80 times longer. Read when the libraries load; what the user set stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # oneDNN and torch each keep up to 1,024 products with the code that was made for their shapes; rows of ever other
    # lengths fill that to the brim: 0.8 GB. A step takes some thirty shapes, layer after layer the same
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "128")
    if not debug:  # deprecations inside libraries are for their makers
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # they warn of optional packages and kernels that are not installed, and of names that are to change in torch
        for name in ("bitsandbytes", "torchao", "torch.utils._pytree"):
            logging.getLogger(name).setLevel(logging.ERROR)
    with suppress(ValueError):  # only a program's main thread may ask for signals
        signal.signal(signal.SIGTERM, _terminated)
    try:
        sys.exit(cli.main([word for word in given if word != "--debug"], "loraplug", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show(told := io.StringIO())
        echo(redact(told.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        _stop(f"interrupted{_when(error.__cause__ or error)}\n  next: {_GO_ON}", 130)
    except SystemExit as end:
        if end.code == _TERMINATED:
            _stop(f"terminated{_when(end)}\n  next: {_GO_ON}", _TERMINATED)
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


def _when(error: BaseException) -> str:
    """What was going on, where that was noted."""
    return "".join(f" {note}" for note in getattr(error, "__notes__", ()))


def _show_traceback() -> None:
    import traceback

    echo(redact(traceback.format_exc()), err=True, nl=False)


def _failed(error: Exception) -> str:
    from loraplug.plugin.registry import report

    plugin = cli.registry.blame(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if plugin is None:
        return f"{text}\n  next: run it again with --debug and report its output"
    return f"plugin {plugin} failed: {text}\n  next: see the full error with --debug; {report(plugin)}"


def _terminated(number: int, frame: object) -> None:  # noqa: ARG001
    """SIGTERM ends the program as ctrl-c does, so that locks are let go and what was begun is removed."""
    sys.exit(_TERMINATED)


def _stop(text: str, code: int) -> None:
    echo("error: ", fg="red", nl=False, err=True)
    echo(redact(text), err=True)
    sys.exit(code)
