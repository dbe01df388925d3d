"""Opens the adapters and models that the command line names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import InputError, LoraplugError, Run, lock_beside, open_model
from loraplug_export.lora_files import WEIGHTS, Adapter, open_adapter

if TYPE_CHECKING:
    from loraplug import App


@frozen
class Base:
    """A model: its folder and its name."""

    folder: Path
    id: str


@frozen
class Source:
    """An adapter, its name (its run's, if it is in a run's folder), and its base."""

    name: str
    adapter: Adapter
    base: Base

    def facts(self) -> dict[str, Any]:
        """Hashes that identify it: of its weights and of its recipe lock; no paths."""
        found: dict[str, Any] = {"name": self.name, "sha256": _sha256(self.adapter.folder / WEIGHTS)}
        if (lock := lock_beside(self.adapter.folder)) is not None:
            found["recipe_lock_sha256"] = _sha256(lock.path)
        return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_base(model: str, app: App, run: Run) -> Base:
    """Open a model as `model.id` of a recipe would, unquantized.

    Raises:
        LoraplugError: it is not found, or is an adapter.
    """
    if (Path(model).expanduser() / "adapter_config.json").is_file():
        raise InputError("is an adapter, not a model", where=model, todo="give a model, or use loraplug merge")
    loader = open_model(model, app.registry).loader
    folder = loader.base(run=run)
    return Base(folder, str(getattr(loader, "id", folder)))


def open_source(folder: Path, app: App, run: Run, base: str | None, trust: bool) -> Source:
    """Open an adapter and its base.

    Raises:
        InputError: the adapter is damaged, or its base is not found.
    """
    folder = folder.expanduser().absolute()
    adapter = open_adapter(folder)
    in_run = folder.name == "adapter" and (folder.parent / "recipe.lock.toml").is_file()
    loader = open_model(folder, app.registry, base, trust).loader
    try:
        found = loader.base(run=run)
    except LoraplugError as error:
        todo = f"{error.todo}; or give the same base at another path with --base"
        raise type(error)(
            f"its base model was not found: {error.where}: {error.what}", where=folder, todo=todo
        ) from error
    name = folder.parent.name if in_run else folder.name
    return Source(name, adapter, Base(found, str(getattr(loader, "id", found))))


def one_base(sources: Sequence[Source]) -> Base:
    """The common base of all sources.

    Raises:
        InputError: two have different ones; names both.
    """
    first = sources[0]
    for other in sources[1:]:
        if other.base.folder.resolve() != first.base.folder.resolve():
            raise InputError(
                f"is an adapter of {other.base.id}, and {first.name} is one of {first.base.id}",
                where=other.adapter.folder,
                todo="merge adapters of one base; if both names are the same model, name it with --base",
            )
    return first.base
