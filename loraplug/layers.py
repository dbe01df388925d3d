"""The first pass over a recipe: TOML files, `.env`, environment and `--set` become one table that knows its origins.

Later layers win: the files named by `extends`, the recipe, `.env`, the environment, `--set`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from loraplug.errors import InputError

ENVIRONMENT = {
    "MODEL_ID": "model.id",
    "RUN_NAME": "run_name",
    "ADAPTER_OUTPUT_DIR": "exporter[adapter].out",
    "MERGED_OUTPUT_DIR": "exporter[merged].out",
}
"""Environment names the recipe listens to; `exporter[adapter]` means every exporter that says `use = "adapter"`."""

Table = dict[str, Any]


@frozen
class Origin:
    """Where a value was said (`label`), and the folder its relative paths start from."""

    label: str
    folder: Path


@define
class Layers:
    """A merged recipe table. `origins` leads from the path of each value, `("trainer", "lora", "r")`, to its origin."""

    file: Path
    folder: Path
    table: Table = field(factory=dict)
    origins: dict[tuple[str | int, ...], Origin] = field(factory=dict)

    def origin(self, path: tuple[str | int, ...]) -> Origin | None:
        """Who said the value at `path`, or the nearest table around it."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path)

    def overlay(self, top: Table, origin: Origin) -> None:
        """Put `top` over what is there, table by table and key by key; lists are replaced whole."""
        self._overlay(self.table, top, origin, ())

    def _overlay(self, base: Table, top: Table, origin: Origin, path: tuple[str | int, ...]) -> None:
        for key, value in top.items():
            here = (*path, key)
            old = base.get(key)
            if isinstance(value, dict) and isinstance(old, dict) and value.get("use", old.get("use")) == old.get("use"):
                self._overlay(old, value, origin, here)
            else:  # another component has other options, so a table with a new `use` starts afresh
                self.origins = {place: said for place, said in self.origins.items() if place[: len(here)] != here}
                base[key] = value
                self._record(value, origin, here)

    def _record(self, value: Any, origin: Origin, path: tuple[str | int, ...]) -> None:
        self.origins[path] = origin
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            self._record(item, origin, (*path, key))


def read_layers(
    recipe: Path, settings: Iterable[str] = (), dotenv: Mapping[str, str | None] | None = None, environ: bool = True
) -> Layers:
    """Read a recipe and everything over it. A lock file (it has a `[lock]` table) ignores `.env` and environment.

    Args:
        recipe: the TOML file.
        settings: `a.b=value` words of `--set`.
        dotenv: names and values of a `.env` file.
        environ: whether the process environment is listened to.

    Raises:
        InputError: a file is missing, is not TOML, or extends itself; a setting cannot be read.
    """
    layers = Layers(recipe, recipe.absolute().parent)
    _read_file(layers, recipe.absolute(), ())
    here = Path.cwd()
    if "lock" not in layers.table:
        for label, values in ((".env", dotenv or {}), ("environment", os.environ if environ else {})):
            for name, target in ENVIRONMENT.items():
                if value := values.get(name):
                    for path in _targets(layers.table, target):
                        _set(layers, path, value, Origin(f"{label} {name}", here), where=f"{label}: {name}")
    _apply(layers, settings, (), "trainer.epochs=1")
    return layers


def component_layers(kind: str, use: str, settings: Iterable[str] = ()) -> Layers:
    """The table of one component, made of `key=value` words of `--set`; relative paths start from the working folder.

    Raises:
        InputError: a setting cannot be read.
    """
    layers = Layers(Path("--set"), Path.cwd())
    layers.overlay({kind: {"use": use}}, Origin("--set", layers.folder))
    _apply(layers, settings, (kind,), "type=q8_0")
    return layers


def _apply(layers: Layers, settings: Iterable[str], under: tuple[str, ...], example: str) -> None:
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or not key.strip():
            raise InputError("not KEY=VALUE", where=f"--set {setting}", todo=f"for example --set {example}")
        path = [*under, *(int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in _split(key.strip()))]
        _set(layers, path, _value(text), Origin("--set", Path.cwd()), where=f"--set {setting}")


def _read_file(layers: Layers, file: Path, below: tuple[Path, ...]) -> None:
    if file in below:
        raise InputError("extends itself", where=file, todo="take one `extends` out of the circle")
    try:
        table = tomllib.loads(file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    except FileNotFoundError:
        where = f"{below[-1]}: extends" if below else file
        raise InputError(
            "no such recipe" if not below else f"no such file: {file}",
            where=where,
            todo="give the path of a .toml file; those in recipes/ are made to be copied",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=file, todo="give the path of a .toml file") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a plain ValueError
        raise InputError(f"not TOML: {error}", where=file, todo="mend the file at that line") from None
    bases = table.pop("extends", [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or "\0" in base:
            raise InputError(f"extends: expected a file name, got {base!r}", where=file)
        _read_file(layers, (file.parent / base).resolve(), (*below, file))
    lock = table.get("lock")
    folder = Path(lock["folder"]) if isinstance(lock, dict) and isinstance(lock.get("folder"), str) else file.parent
    layers.folder = folder
    layers.overlay(table, Origin(str(file), folder))


def _targets(table: Table, target: str) -> list[list[str | int]]:
    match = re.fullmatch(r"exporter\[(\w+)\]\.(\w+)", target)
    if not match:
        return [list(target.split("."))]
    exporters = table.get("exporter")
    found = enumerate(exporters) if isinstance(exporters, list) else ()
    named = [index for index, item in found if isinstance(item, dict) and item.get("use") == match[1]]
    return [["exporter", index, match[2]] for index in named]


def _split(key: str) -> list[str]:
    """`trainer.lora."a.b"` to its parts, as TOML splits a dotted key; bare parts may be list indices."""
    return [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|([^."]+)', key)]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text  # a bare word


def _set(layers: Layers, path: list[str | int], value: Any, origin: Origin, where: str) -> None:
    at: Any = layers.table
    for step, key in enumerate(path):
        last = step == len(path) - 1
        if isinstance(at, list):
            if not isinstance(key, int) or key >= len(at):
                raise InputError(
                    f"{'.'.join(map(str, path[:step]))} is a list of {len(at)}", where=where, todo="name an index"
                )
        elif not isinstance(at, dict):
            raise InputError(f"{'.'.join(map(str, path[:step]))} is not a table", where=where, todo="check the key")
        else:
            key = str(key)
            if not last:
                at.setdefault(key, {})
        if last:
            at[key] = value
            here = tuple(path)
            layers.origins = {place: said for place, said in layers.origins.items() if place[: len(here)] != here}
            layers._record(value, origin, here)
        else:
            at = at[key]
