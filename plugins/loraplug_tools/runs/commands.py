"""`loraplug runs list`, `show`, `compare` and `watch`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loraplug import echo

if TYPE_CHECKING:
    from loraplug import App, RunRecord

_outputs = click.option(
    "--outputs",
    type=click.Path(path_type=Path),
    default=Path("outputs"),
    metavar="FOLDER",
    help="Folder with the runs; default: outputs.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def runs() -> None:
    """Past and current runs: status, figures, losses, results and differences."""


@runs.command("list")
@_outputs
@_as_json
def list_runs(outputs: Path, as_json: bool) -> None:
    """List every run, the newest first."""
    from loraplug import read_runs
    from loraplug_tools.runs.render import as_data, listed

    found, strange = read_runs(outputs)
    if as_json:
        unreadable = [{"name": name, "status": "unreadable", "error": why} for name, why in strange.items()]
        return _print_json([*map(as_data, found), *unreadable])
    if not found and not strange:
        return echo(f"no runs in {outputs / 'runs'}")
    return echo("\n".join(listed(found, strange)))


@runs.command("show")
@click.argument("run")
@_outputs
@_as_json
@click.pass_obj
def show_run(app: App, run: str, outputs: Path, as_json: bool) -> None:
    """Show RUN (a name, or a run's folder): status, losses, results and recipe."""
    from loraplug_tools.runs.render import as_data, page

    past = _find(run, outputs)
    return _print_json(as_data(past)) if as_json else echo("\n".join(page(past, app.registry)))


@runs.command("compare")
@click.argument("names", nargs=-1, metavar="RUN RUN...")
@_outputs
@_as_json
def compare_runs(names: tuple[str, ...], outputs: Path, as_json: bool) -> None:
    """Compare two or more runs: figures, losses, and the recipe values that differ."""
    from loraplug import InputError
    from loraplug_tools.runs.render import as_data, compared, differences

    if len(names) < 2:
        raise InputError("needs two runs or more", where="runs compare", todo="see `loraplug runs list`")
    found = [_find(name, outputs) for name in names]
    if as_json:
        return _print_json({"runs": [*map(as_data, found)], "differences": differences(found)})
    return echo("\n".join(compared(found)))


@runs.command("watch")
@click.argument("run", required=False)
@_outputs
@click.option("--once", is_flag=True, help="Print the current state once and exit.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.2),
    default=2.0,
    metavar="SECONDS",
    help="Seconds between updates; 2 by default.",
)
@click.pass_context
def watch_run(ctx: click.Context, run: str | None, outputs: Path, once: bool, every: float) -> None:
    """Follow RUN, or the only run in progress, until it ends. Reads the run's files only.

    Exits with 1 if the run failed or its process died. Ctrl-C stops watching, not the run.
    """
    from loraplug import EventLog, read_run
    from loraplug_tools.runs.watch import follow, picture

    found = _find(run, outputs) if run is not None else _at_work(outputs)
    if once:
        echo("\n".join(picture(found)))
        return
    log = EventLog(found.folder / "events.jsonl")
    last = follow(lambda: read_run(found.folder, log), every)
    ctx.exit(1 if last.status in ("failed", "interrupted") else 0)


def _at_work(outputs: Path) -> RunRecord:
    """The only run that is at work."""
    from loraplug import InputError, read_runs

    found, _ = read_runs(outputs)
    running = [run for run in found if run.status == "running"]
    if len(running) == 1:
        return running[0]
    if running:
        names = ", ".join(run.name for run in running)
        raise InputError(f"{len(running)} runs are in progress: {names}", where=outputs, todo="name one of them")
    todo = f"see how the last one went: loraplug runs watch {found[0].name}" if found else "start one: loraplug run"
    raise InputError("no run is in progress", where=outputs / "runs", todo=todo)


def _find(name: str, outputs: Path) -> RunRecord:
    from difflib import get_close_matches

    from loraplug import InputError, read_run

    place = outputs / "runs"
    folder = Path(name) if Path(name).name != name else place / name
    if not folder.is_dir():
        known = sorted(path.name for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
        near = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"runs: {', '.join(known[:20]) or 'none'}"
        raise InputError("there is no run of this name", where=folder, todo=hint)
    try:
        return read_run(folder)
    except InputError as error:
        raise InputError(error.what, where=folder) from None


def _print_json(data: Any) -> None:
    import json

    echo(json.dumps(_without_nan(data), indent=2))


def _without_nan(data: Any) -> Any:
    """JSON knows neither NaN nor infinity: they become null."""
    if isinstance(data, dict):
        return {key: _without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(value) for value in data]
    finite = not isinstance(data, float) or data - data == 0
    return (data if isinstance(data, str | int | float | None) else str(data)) if finite else None
