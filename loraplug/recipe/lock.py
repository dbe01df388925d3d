"""The lock file: a complete recipe with versions and hashes. It contains no secrets and can be run itself."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from importlib import metadata
from os.path import relpath
from pathlib import Path
from typing import Any

from loraplug.config.options import ByUse
from loraplug.config.secrets import REDACTED, redacted
from loraplug.config.structure import unstructure
from loraplug.config.tables import Place, Table, as_key
from loraplug.errors import InputError, Problem
from loraplug.plugin.registry import Registry
from loraplug.recipe.recipe import DataSet, Recipe

_HEADER = """\
# Made by loraplug: the whole recipe with every default, and what it was run with.
# `loraplug run` takes this file as it takes a recipe, under another name:  --set run_name=again
# Relative paths start from lock.folder; .env and environment variables do not change it.

"""
_NOT_HERE = re.compile(r"[A-Za-z]:[\\/]|/[^/\s]+/|~\w*[\\/]|\\\\|\.\.(?:[\\/]|$)|file:/")
PINNED = {
    "data": "the data",
    "validation": "the validation data",
    "base": "the base",
    "tokenizer": "the tokenizer",
    "template": "the chat template",
    "encoding": "the encoding",
}
"""What a run is held to, by the names that state and lock file have for it."""


def as_table(
    recipe: Recipe, registry: Registry, folder: Path | None = None, *, secrets: bool = False, commands: bool = False
) -> Table:
    """The recipe with every default written out and paths relative to `folder`, or else the recipe's.

    `commands = True` adds the tables that commands read: a run does not depend on them.

    It is for writing and showing, so what is secret in it is replaced; `secrets = True` keeps it, to be compared.
    """

    def use(part: ByUse) -> str:
        return registry.use_of(type(part)) or part.name

    def relative(path: str) -> str:
        return relpath(path, folder or recipe.folder) if Path(path).is_absolute() else path

    def written(part: Any) -> Table:
        head = {"use": use(part)} if isinstance(part, ByUse) else {}
        return head | unstructure(part, use, relative)

    parts = {kind: part for kind, part in recipe.parts().items() if part is not None}
    tables: Table = {
        kind: [*map(written, part)] if kind == "exporter" else written(part) for kind, part in parts.items()
    }
    if recipe.sets:
        tables["dataset"] = [_set_table(one, recipe, written) for one in recipe.sets]
        tables["mix"] = written(recipe.mix)
    elif recipe.transforms:
        tables["dataset"]["transform"] = [*map(written, recipe.transforms)]
    plugins = {"plugins": {"disable": list(recipe.disabled)}} if recipe.disabled else {}
    read = {name: written(part) for name, part in recipe.tables.items()} if commands else {}
    table = {"run_name": recipe.run_name, "seed": recipe.seed, **plugins, **tables, **read}
    shown: Table = table if secrets else redacted(table)
    return shown


def _set_table(one: DataSet, recipe: Recipe, written: Callable[[Any], Table]) -> Table:
    """One of several `[[dataset]]`; its formatter where it differs from the recipe's."""
    table = {**written(one.source), "name": one.name}
    table |= {} if one.share is None else {"share": one.share}
    table |= {"transform": [*map(written, one.transforms)]} if one.transforms else {}
    return table | ({"formatter": written(one.formatter)} if one.formatter != recipe.formatter else {})


def lock_text(recipe: Recipe, registry: Registry, pinned: Mapping[str, Any]) -> str:
    """The text of `recipe.lock.toml`; `pinned` says what was trained on, with hashes, and the date."""
    import tomli_w

    facts: Table = {"folder": str(recipe.folder), "python": platform.python_version(), "machine": platform.platform()}
    facts |= {**pinned, "versions": versions(registry)}
    table = as_table(recipe, registry, secrets=True)
    facts["brought_by"] = _brought_by(table, registry)
    hidden = {as_key(place): recipe.unfilled.get(as_key(place), "") for place, value in leaves(table)
              if redacted(value, str(place[-1])) != value}  # fmt: skip
    facts |= {"redacted": hidden} if hidden else {}
    return _HEADER + tomli_w.dumps({**redacted(table), "lock": redacted(facts)})


def _brought_by(table: Table, registry: Registry) -> dict[str, str]:
    """The distribution of every component of a recipe, by its key: another may bring one of that name some day."""
    found = {}
    for place, use in leaves(table):
        if place[-1:] == ("use",) and isinstance(use, str):
            distributions = {entry.plugin.distribution for entry in registry.named(use)}
            if len(distributions) == 1:
                found[as_key(place[:-1])] = distributions.pop()
    return found


def leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Place and value of everything in a table; tables in lists are gone into, other lists are values."""
    if isinstance(value, dict) and value:
        items: Any = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = enumerate(value)
    else:
        yield place, value
        return
    for key, item in items:
        yield from leaves(item, (*place, key))


def require_secrets(recipe: Recipe, registry: Registry) -> None:
    """Refuse to run a recipe in which something secret is replaced, as in lock files and in what `recipe show` prints.

    Raises:
        InputError: naming every such key.
    """
    hidden = (recipe.lock or {}).get("redacted") or {}
    problems, keys = [], []
    for place, value in leaves(as_table(recipe, registry, secrets=True)):
        key, text = as_key(place), str(value)
        if (key in hidden and REDACTED in text) or value == REDACTED or f"://{REDACTED}@" in text:
            said = hidden.get(key) if isinstance(hidden, dict) else None
            problems.append(
                Problem(key, f"{REDACTED} stands here in place of a secret" + (f": {said}" if said else ""))
            )
            keys.append(key)
    if problems:
        text = "\n".join(f"{recipe.file}: {problem}" for problem in problems)
        variables = " (or set the variables that are named)" if any(map(hidden.get, keys)) else ""
        todo = "set each again: " + " ".join(f"--set {key}=…" for key in keys) + variables
        raise InputError(text, todo=todo)


def shareable(text: str) -> str:
    """A lock file's text without what tells of the machine it was made on, for cards and pushes.

    `lock.folder` is left out, so relative paths start from the file's own folder; of an absolute path, or one that
    leads out of the recipe's folder, only the last part is kept, and `lock.redacted` names it.
    """
    import tomli
    import tomli_w

    table = redacted(tomli.loads(text))
    facts = table.get("lock") or {}
    facts.pop("folder", None)
    hidden = dict(facts.get("redacted") or {})
    for place, value in [*leaves(table)]:
        if place[0] == "lock" and place[1:2] != ("merge",):
            continue
        short = [*map(_last_part, value)] if isinstance(value, list) else _last_part(value)
        if short != value:
            _put(table, place, short)
            hidden.setdefault(as_key(place), "")
    if hidden and "lock" in table:
        facts["redacted"] = hidden
    return _HEADER + tomli_w.dumps(table)


def _last_part(value: Any) -> Any:
    if not isinstance(value, str) or "\n" in value or not _NOT_HERE.match(value):
        return value
    parts = [part for part in re.split(r"[\\/]", value) if part not in ("", ".", "..", "~")]
    return f"{REDACTED}/{parts[-1]}" if parts else REDACTED


def _put(table: Any, place: Place, value: Any) -> None:
    for key in place[:-1]:
        table = table[key]
    table[place[-1]] = value


def locked_date(recipe: Recipe) -> datetime | None:
    """The date that a lock file was made with.

    Raises:
        InputError: it is none.
    """
    said = (recipe.lock or {}).get("date")
    if said is None:
        return None
    try:
        return said if isinstance(said, datetime) else datetime.fromisoformat(str(said))
    except ValueError:
        raise InputError(
            f"lock.date: {said!r} is not a date", where=recipe.file, todo="write 2026-01-31T12:00:00"
        ) from None


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


def locked(recipe: Recipe, part: str) -> dict[str, Any]:
    """What a lock file says of a part of `PINNED`; nothing for other recipes and older files."""
    found = (recipe.lock or {}).get(part)
    return found if isinstance(found, dict) else {}
