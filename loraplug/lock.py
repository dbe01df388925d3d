"""The lock file: a recipe that is complete, with what it stood on. It holds no secret, and can be run itself."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from os.path import relpath
from pathlib import Path
from typing import Any

from loraplug.errors import InputError
from loraplug.recipe import Recipe
from loraplug.registry import Registry
from loraplug_tables.layers import Table
from loraplug_tables.options import options
from loraplug_tables.structure import unstructure

_HEADER = """\
# Made by loraplug: the whole recipe with every default, and what it was run with.
# `loraplug run` takes this file as it takes a recipe, under another name:  --set run_name=again
# Relative paths start from lock.folder; .env and environment variables do not change it.

"""


def as_table(recipe: Recipe, registry: Registry, folder: Path | None = None) -> Table:
    """The recipe with every default written out and paths relative to `folder`, or else the recipe's."""
    names = {entry.cls: entry.name for entry in registry.entries}

    def written(part: Any) -> Table:
        table = {"use": names[type(part)]} if type(part) in names else {}
        table |= unstructure(part)
        for option in options(type(part)):
            if option.is_path and option.name in table:
                table[option.name] = _relative(table[option.name], folder or recipe.folder)
        return table

    parts = {kind: part for kind, part in recipe.parts().items() if part is not None}
    tables = {kind: [*map(written, part)] if kind == "exporter" else written(part) for kind, part in parts.items()}
    plugins = {"plugins": {"disable": list(recipe.disabled)}} if recipe.disabled else {}
    return {"run_name": recipe.run_name, "seed": recipe.seed, **plugins, **tables}


def _relative(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_relative(item, folder) for item in value]
    return relpath(value, folder) if Path(str(value)).is_absolute() else value


def lock_text(recipe: Recipe, registry: Registry, data: dict[str, Any], base: dict[str, Any]) -> str:
    """The text of `recipe.lock.toml`; `data` and `base` say what was trained on, with their hashes."""
    import tomli_w

    facts: Table = {"folder": str(recipe.folder), "python": platform.python_version(), "machine": platform.platform()}
    facts |= {"data": data, "base": base, "versions": versions(registry)}
    return _HEADER + tomli_w.dumps({**as_table(recipe, registry), "lock": facts})


def versions(registry: Registry) -> dict[str, str]:
    """Versions of every distribution that brings a plugin, and of what those ask for directly."""
    found = {plugin.distribution: plugin.version for plugin in registry.plugins if plugin.status == "ok"}
    for name in list(found):
        try:
            for need in metadata.requires(name) or ():
                needed = re.split(r"[^A-Za-z0-9._-]", need, maxsplit=1)[0]
                found[needed] = metadata.version(needed)
        except metadata.PackageNotFoundError:  # an extra that is not installed, or a plugin object made in a test
            continue
    return dict(sorted(found.items()))


def verify(recipe: Recipe, part: str, sha256: str) -> None:
    """Refuse to run a lock file on other data, or another base, than it was made with."""
    locked = (recipe.lock or {}).get(part, {}).get("sha256")
    if locked and locked != sha256:
        what = f"the {part} is not what this lock file was made with (sha256 {sha256[:12]}…, locked {locked[:12]}…)"
        todo = f"bring the old {part} back, or take lock.{part} out of the file to run on the new one"
        raise InputError(what, where=recipe.file, todo=todo)
