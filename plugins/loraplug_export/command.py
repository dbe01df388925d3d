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
@click.option("--name", help="Name of the export; default: that of the adapter folder.")
@click.option("--base", metavar="MODEL", help="Base model, in place of the one that the adapter names.")
@click.option("--prove", is_flag=True, help="Certify that the export gives the same answers as base + adapter.")
@click.option("--server", metavar="URL", help="With --prove: also compare this server (OpenAI API).")
@click.option("--server-model", metavar="NAME", help="The model's name on the server; default: the export's name.")
@click.option(
    "--trust", is_flag=True, help="Use the recipe lock in the adapter folder even if another machine wrote it."
)
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
        raise InputError("has no effect without --prove", where="--server", todo="add --prove")
    exporter = find_exporter(to, app.registry, settings)
    adapter = adapter.expanduser().absolute()
    if not (adapter / "adapter_config.json").is_file():
        what = "no such folder" if not adapter.is_dir() else "has no adapter_config.json"
        raise InputError(what, where=adapter, todo="give a folder such as outputs/adapters/<run>")
    _check_links(adapter, "**/*")
    in_run = adapter.name == "adapter" and (adapter.parent / "recipe.lock.toml").is_file()
    name = name or (adapter.parent.name if in_run else adapter.name)
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be a file name", where="--name", todo="use letters, digits, dots, dashes")
    opened = open_model(adapter, app.registry, base, trust)
    run = Run(name, reporter=app.reporter())
    place = exporter.place(run=run)
    _check_place(place, adapter)
    try:
        folder = opened.loader.base(run=run)
    except LoraplugError as error:
        todo = f"{error.todo}; or give the same base at another path with --base"
        raise type(error)(
            f"its base model was not found: {error.where}: {error.what}", where=adapter, todo=todo
        ) from error
    if not opened.own:
        _check_links(folder, *LICENCES, *TOKENIZER, "*config.json")
    extras = published(adapter.parent) if in_run else {}
    extras = _inside(extras, adapter.parent, run)
    base_id = str(getattr(opened.loader, "id", folder))
    trained = ExportContext(run, adapter, folder, base_id, extras, _figures(extras.get("metrics.jsonl"), adapter),
                      quantizer=opened.quantizer)  # fmt: skip
    # take the lock of a run of this name, which may be exporting just now
    guard = run.folder if run.folder.is_dir() else run.cache / "exports" / name
    with exclusive_lock(guard, name), wrap_os_errors(place), atomic_output(place) as out:
        exporter.export(result=trained, out=out)
        old, new = extras.get("recipe.lock.toml"), out / "recipe.lock.toml"
        if old is not None and is_own_lock(old.read_bytes()) and new.is_file():  # it includes figures of the export
            remember_lock(new.read_bytes(), run)
    shown = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    echo(f"{to}: {shown}")


def _proving(server: str | None, model: str | None) -> list[str]:
    """The command's options for a `ProvedExporter`, as `--set` takes them."""
    said = {"prove": "always", "server": server, "server_model": model}
    return [f"{key}={json.dumps(value)}" for key, value in said.items() if value]


def _figures(metrics: Path | None, adapter: Path) -> dict[str, float]:
    """The summary in the last line of a run's metrics.jsonl; empty for adapters without one."""
    path = metrics or adapter / "metrics.jsonl"
    try:
        figures: dict[str, float] = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["summary"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return figures


def _check_links(folder: Path, *patterns: str) -> None:
    """Refuse links out of the adapter folder: the files they point to would be exported and pushed.

    Only the hub's cache, which consists of links, may point into its own file store.
    """
    homes = [folder.resolve()]
    if folder.parent.name == "snapshots":
        homes.append(folder.parent.parent.resolve() / "blobs")
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        if path.is_symlink() and not any(path.resolve().is_relative_to(home) for home in homes):
            raise InputError(
                "is a link to a file outside the folder", where=path, todo="replace the link by the file, or remove it"
            )


def _inside(extras: Mapping[str, Path], folder: Path, run: Run) -> dict[str, Path]:
    """Files that published.json names, if they are in the folder: a foreign list may name any file of this machine."""
    kept = {name: path for name, path in extras.items() if path.resolve().is_relative_to(folder.resolve())}
    for name in extras.keys() - kept:
        run.warn(f"{folder}: published.json names {name} outside the folder: left out")
    return kept


def _check_place(place: Path, adapter: Path) -> None:
    """Refuse to replace the adapter itself, or a folder that no export has made."""
    if adapter.resolve().is_relative_to(place.resolve()):
        raise InputError(f"would be overwritten by its own export ({place})", where=adapter, todo="give another --name")
    if not place.exists() or _made_by_an_export(place):
        return
    what = "exists already, and was not made by an export"
    raise InputError(what, where=place, todo="move it away, or give another --name")


def _made_by_an_export(place: Path) -> bool:
    if place.is_dir():
        card = place / "README.md"
        return not any(place.iterdir()) or (card.is_file() and "loraplug" in card.read_text("utf-8", errors="replace"))
    with place.open("rb") as file:
        start = file.read(4)
    return start == b"GGUF" or (place.suffix == ".json" and start[:1] == b"{")
