"""Combines a recipe's sources: the files it extends, itself, `.env`, the environment and `--set`; later ones win."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from loraplug.config.tables import Layers, Origin, Place, Table

ENVIRONMENT = {
    "MODEL_ID": "model.id",
    "RUN_NAME": "run_name",
    "ADAPTER_OUTPUT_DIR": "exporter[adapter].out",
    "MERGED_OUTPUT_DIR": "exporter[merged].out",
}
"""Environment names the recipe listens to; `exporter[adapter]` means every exporter that says `use = "adapter"`."""


def read_layers(
    recipe: Path, settings: Iterable[str] = (), dotenv: Mapping[str, str | None] | None = None, environ: bool = True
) -> Layers:
    """Read a recipe and everything over it. `${NAME}` in a file's strings is filled from environment and `.env`.

    A lock file (it has a `[lock]` table) is complete: it ignores both, and its strings stand as they are, but for what
    `lock.redacted` says was secret and came from variables: that is filled in from them again.

    Args:
        recipe: the TOML file.
        settings: `a.b=value` words of `--set`.
        dotenv: names and values of a `.env` file.
        environ: whether the process environment is listened to.

    Raises:
        InputError: a file is missing, is not TOML, or extends itself; a setting cannot be read.
    """
    layers = Layers(recipe, recipe.absolute().parent)
    layers.read(recipe.absolute())
    lock = layers.table.get("lock")
    if lock is None:
        layers.expand({**(dotenv or {}), **(os.environ if environ else {})})
        for label, values in ((".env", dotenv or {}), ("environment", os.environ if environ else {})):
            for name, target in ENVIRONMENT.items():
                if value := values.get(name):
                    for place in _targets(layers.table, target):
                        layers.put(place, value, Origin(f"{label} {name}", Path.cwd()), where=f"{label}: {name}")
    elif isinstance(lock, dict) and isinstance(lock.get("folder"), str):  # its paths start where the recipe's did
        folder, said = Path(lock["folder"]), layers.origins["lock",]
        moved = Origin(said.label, folder)
        layers.origins = {place: moved if origin == said else origin for place, origin in layers.origins.items()}
        layers.folder = folder if said.label == str(recipe.absolute()) else layers.folder
    layers.apply(settings)
    if isinstance(lock, dict) and isinstance(lock.get("redacted"), dict):
        layers.refill(lock["redacted"], {**(dotenv or {}), **(os.environ if environ else {})})
    return layers


def component_layers(kind: str, use: str, settings: Iterable[str] = ()) -> Layers:
    """The table of one component, made of `key=value` words of `--set`; relative paths start from the working folder.

    Raises:
        InputError: a setting cannot be read.
    """
    layers = Layers(Path("--set"), Path.cwd())
    layers.overlay({kind: {"use": use}}, Origin("--set", layers.folder))
    layers.apply(settings, (kind,), "type=q8_0")
    return layers


def _targets(table: Table, target: str) -> list[Place]:
    match = re.fullmatch(r"exporter\[(\w+)\]\.(\w+)", target)
    if not match:
        return [tuple(target.split("."))]
    exporters = table.get("exporter")
    found = enumerate(exporters) if isinstance(exporters, list) else ()
    named = [index for index, item in found if isinstance(item, dict) and item.get("use") == match[1]]
    return [("exporter", index, match[2]) for index in named]
