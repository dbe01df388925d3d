"""Reads base and quantizer from somebody else's recipe lock, refusing anything that runs code or names other files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli

from loraplug.config.options import options
from loraplug.config.tables import Layers, Origin, Table, absolute
from loraplug.errors import InputError, Problem
from loraplug.plugin.registry import Registry
from loraplug.recipe.own_locks import TRUST

OURS = "loraplug"
_LOADER = f"{OURS}:transformers"
_TAKEN = {"use", "id", "revision", "dtype", "attention", "add_tokens"}
_ATTENTION = ("sdpa", "eager")  # transformers may fetch the others from a hub, as compiled code
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_./-]{0,199}")


def parse_lock(text: bytes, lock: Path) -> Table:
    """A lock's tables.

    Raises:
        InputError: it is not TOML in UTF-8.
    """
    try:
        return tomli.loads(text.decode("utf-8-sig").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"not TOML: {error}", where=lock, todo="give the base with --base") from None


def foreign_layers(table: Table, lock: Path, folder: Path, registry: Registry, has_tokenizer: bool) -> Layers:
    """The tables `model` and `quantizer` of somebody else's lock, with nothing in them but names and numbers.

    Args:
        table: the lock.
        folder: the model's folder; a base may lie in it, and nowhere else on this machine.
        has_tokenizer: the folder has a tokenizer of its own, so that the lock's chat template is not asked for.

    Raises:
        InputError: it asks for more; names all that it asks for.
    """
    model, quantizer = table.get("model"), table.get("quantizer")
    problems = [*_of_model(model, folder, registry, has_tokenizer), *_of_quantizer(quantizer, registry)]
    if "extends" in table:
        problems.insert(0, Problem("extends", "reads other files"))
    if problems:
        asked = "".join(f"\n  {problem}" for problem in problems)
        what = f"this lock was not written by a run of yours, and it contains settings that are not trusted:{asked}"
        raise InputError(what, where=lock, todo=f"{TRUST}; or give the base with --base")
    layers = Layers(lock, folder)
    kept = {"model": {key: value for key, value in (model or {}).items() if key in _TAKEN} | {"use": _LOADER}}
    layers.overlay(kept | ({"quantizer": quantizer} if quantizer is not None else {}), Origin(str(lock), folder))
    return layers


def _of_model(table: Any, folder: Path, registry: Registry, has_tokenizer: bool) -> Iterator[Problem]:
    if not isinstance(table, dict):
        yield Problem("model", "missing table")
        return
    cls = registry.find("model", _LOADER)
    if table.get("use") not in ("transformers", _LOADER):
        yield Problem("model.use", f"{_said(table.get('use'))} is not the loader that comes with loraplug")
        return
    defaults = {one.name: one.default for one in options(cls) if not one.required}
    for key, value in table.items():
        if (key in defaults and value == defaults[key]) or (key == "chat_template" and has_tokenizer):
            continue
        if key == "trust_remote_code":
            yield Problem("model.trust_remote_code", f"{_said(value)} runs Python code that comes with the model")
        elif key == "chat_template":
            yield Problem("model.chat_template", f"{_said(value)} is a file outside what was opened")
        elif key == "add_tokens" and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            yield Problem("model.add_tokens", f"{_said(value)} is not a list of strings")
        elif key == "attention" and value not in _ATTENTION:
            yield Problem("model.attention", f"{_said(value)} may load compiled code")
        elif key == "revision" and not (isinstance(value, str) and _REVISION.fullmatch(value)):
            yield Problem("model.revision", f"{_said(value)} is not a commit, tag or branch")
        elif key not in _TAKEN:
            yield Problem(f"model.{key}", f"{_said(value)}: not one of {', '.join(sorted(_TAKEN))}")
    if (why := _leads_out(table.get("id"), folder)) is not None:
        yield Problem("model.id", f"{_said(table.get('id'))} {why}")


def _leads_out(id: Any, folder: Path) -> str | None:  # noqa: A002 - the recipe's own word
    """Why a base is not taken; None where it is one of a hub, of an installed package, or in the folder."""
    if not isinstance(id, str) or not id:
        return "is not a model name"
    if id.startswith("package:"):
        return None
    if re.match(r"[\\/]{2}", id):  # before anything asks for it: Windows would tell the other machine who asks
        return "is a network path"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", id):
        return "is neither a name on the hub nor a folder"
    path = Path(absolute(id, folder, sure=False))
    if path.is_absolute() and not path.resolve().is_relative_to(folder.resolve()):
        return "is a path outside the model's folder"
    return None


def _of_quantizer(table: Any, registry: Registry) -> Iterator[Problem]:
    if table is None:
        return
    if not isinstance(table, dict) or not isinstance(table.get("use"), str):
        yield Problem("quantizer", "expected a table with use")
        return
    entries = [entry for entry in registry.named(table["use"]) if entry.kind == "quantizer"]
    if any(entry.plugin.distribution != OURS for entry in entries):
        yield Problem("quantizer.use", f"{_said(table['use'])} is a plugin that does not come with loraplug")
    for key, value in table.items():
        if not isinstance(value, str | int | float | bool):
            yield Problem(f"quantizer.{key}", "is not a plain value")


def _said(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
