"""`loraplug export`: any exporter on a finished adapter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loraplug import (
    ExportContext,
    InputError,
    LoraplugError,
    Run,
    atomic_output,
    echo,
    exclusive_lock,
    find_exporter,
    is_own_lock,
    open_model,
    published,
    remember_lock,
    wrap_os_errors,
)
from loraplug_export.folders import LICENCES, TOKENIZER

if TYPE_CHECKING:
    from loraplug import App

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")


@click.command()
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="NAME", help="The exporter: merged, gguf, ollama, hub, adapter …")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option of the exporter: type=q8_0.")
@click.option("--name", help="Name of what is made; default: the adapter folder's.")
@click.option("--base", metavar="MODEL", help="Base of the adapter, in place of the one it names.")
@click.option("--prove", is_flag=True, help="Certify that what is made answers as base + adapter does.")
@click.option("--server", metavar="URL", help="With --prove: ask this server (OpenAI API) the same.")
@click.option("--server-model", metavar="NAME", help="What the server calls the model; default: the export's name.")
@click.option("--trust", is_flag=True, help="Believe the recipe lock beside the adapter, whoever wrote it.")
@click.pass_obj
def export(
    app: App,
    adapter: Path,
    to: str,
    settings: tuple[str, ...],
    name: str | None,
    base: str | None,
    prove: bool,
    server: str | None,
    server_model: str | None,
    trust: bool,
) -> None:
    """Export a trained ADAPTER folder in another form; `loraplug plugins show NAME` lists an exporter's options.

    An earlier export at the same place is replaced once the new one is complete.
    """
    if prove:
        settings = (*settings, *_proving(server, server_model))
    elif server or server_model:
        raise InputError("asks nothing without --prove", where="--server", todo="add --prove")
    exporter = find_exporter(to, app.registry, settings)
    adapter = adapter.expanduser().absolute()
    if not (adapter / "adapter_config.json").is_file():
        what = "no such folder" if not adapter.is_dir() else "has no adapter_config.json"
        raise InputError(what, where=adapter, todo="give a folder such as outputs/adapters/<run>")
    _check_links(adapter, "**/*")
    in_run = adapter.name == "adapter" and (adapter.parent / "recipe.lock.toml").is_file()
    name = name or (adapter.parent.name if in_run else adapter.name)
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be a file's name", where="--name", todo="use letters, digits, dots, dashes")
    opened = open_model(adapter, app.registry, base, trust)
    run = Run(name, reporter=app.reporter())
    place = exporter.place(run=run)
    _check_place(place, adapter)
    try:
        folder = opened.loader.base(run=run)
    except LoraplugError as error:
        todo = f"{error.todo}; or name another place of the same base with --base"
        raise type(error)(f"its base is not there: {error.where}: {error.what}", where=adapter, todo=todo) from error
    if not opened.own:
        _check_links(folder, *LICENCES, *TOKENIZER, "*config.json")
    extras = published(adapter.parent) if in_run else {}
    extras = _inside(extras, adapter.parent, run)
    base_id = str(getattr(opened.loader, "id", folder))
    trained = ExportContext(run, adapter, folder, base_id, extras, _figures(extras.get("metrics.jsonl"), adapter),
                      quantizer=opened.quantizer)  # fmt: skip
    # the lock of a run of this name, which may be at its exporters just now
    guard = run.folder if run.folder.is_dir() else run.cache / "exports" / name
    with exclusive_lock(guard, name), wrap_os_errors(place), atomic_output(place) as out:
        exporter.export(result=trained, out=out)
        old, new = extras.get("recipe.lock.toml"), out / "recipe.lock.toml"
        if old is not None and is_own_lock(old.read_bytes()) and new.is_file():  # it has figures of the export in it
            remember_lock(new.read_bytes(), run)
    shown = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    echo(f"{to}: {shown}")


def _proving(server: str | None, model: str | None) -> list[str]:
    """The options of a `ProvedExporter` that the command's say, as `--set` takes them."""
    said = {"prove": "always", "server": server, "server_model": model}
    return [f"{key}={json.dumps(value)}" for key, value in said.items() if value]


def _figures(metrics: Path | None, adapter: Path) -> dict[str, float]:
    """The summary in the last line of a run's metrics.jsonl; nothing for adapters from elsewhere."""
    path = metrics or adapter / "metrics.jsonl"
    try:
        figures: dict[str, float] = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["summary"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return figures


def _check_links(folder: Path, *patterns: str) -> None:
    """Refuse links to files elsewhere among what is copied: what is made of it, and pushed, would hold them.

    Only the hub's cache, which is all links, may point into its own store of files.
    """
    homes = [folder.resolve()]
    if folder.parent.name == "snapshots":
        homes.append(folder.parent.parent.resolve() / "blobs")
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        if path.is_symlink() and not any(path.resolve().is_relative_to(home) for home in homes):
            raise InputError(
                "is a link to a file elsewhere", where=path, todo="put the file itself there, or take it out"
            )


def _inside(extras: Mapping[str, Path], folder: Path, run: Run) -> dict[str, Path]:
    """Files that a run has published, those in its folder: a list from elsewhere may name any file of this machine."""
    kept = {name: path for name, path in extras.items() if path.resolve().is_relative_to(folder.resolve())}
    for name in extras.keys() - kept:
        run.warn(f"{folder}: published.json names a file elsewhere as {name}: left out")
    return kept


def _check_place(place: Path, adapter: Path) -> None:
    """Refuse to replace the adapter itself, or what no export has made."""
    if adapter.resolve().is_relative_to(place.resolve()):
        raise InputError(
            f"would be replaced by what is made of it ({place})", where=adapter, todo="give another --name"
        )
    if not place.exists() or _made_by_an_export(place):
        return
    what = "is there already, and is not what an export has left"
    raise InputError(what, where=place, todo="move it away, or give another --name")


def _made_by_an_export(place: Path) -> bool:
    if place.is_dir():
        card = place / "README.md"
        return not any(place.iterdir()) or (card.is_file() and "loraplug" in card.read_text("utf-8", errors="replace"))
    with place.open("rb") as file:
        start = file.read(4)
    return start == b"GGUF" or (place.suffix == ".json" and start[:1] == b"{")
