"""The models in the page's list: the one it was started with and finished runs; one is loaded at a time."""

from __future__ import annotations

import gc
from pathlib import Path

from attrs import define, field

from loraplug import InputError, Registry, Run, open_model, read_provenance
from loraplug_serve.chat_model import ChatBackend, ChatModel
from loraplug_serve.loading import InMemory, Loaded, load
from loraplug_serve.remote import RemoteModel, is_url


def finished_runs(outputs: Path) -> dict[str, Path]:
    """Adapters and merged models under `outputs`, by what to call them, the newest first."""
    found = [*outputs.glob("adapters/*/adapter_config.json"), *outputs.glob("merged/*/config.json")]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    kinds = {"adapters": "adapter", "merged": "merged"}
    # dots begin the names of what is being made
    folders = [path.parent for path in found if not path.parent.name.startswith(".")]
    return {f"{folder.name} ({kinds[folder.parent.name]})": folder for folder in folders}


@define
class Models:
    """Loads what is asked for and keeps the last; `first`, `base` and `trust` are what the command line was given."""

    first: str
    registry: Registry
    run: Run
    base: str | None = None
    trust: bool = False
    _name: str = field(init=False, default="")
    _loaded: Loaded | None = field(init=False, default=None)

    def names(self) -> list[str]:
        """What can be chosen; looked up anew, since a run may have finished meanwhile."""
        runs = finished_runs(self.run.outputs)
        here = Path(self.first).expanduser().absolute()
        return [self.first, *(name for name, path in runs.items() if path != here)]

    def get(self, name: str) -> Loaded:
        """The model of that name.

        Raises:
            InputError: it no longer exists, or it cannot be loaded.
        """
        if self._loaded is None or name != self._name:
            self._loaded = None  # two would not fit where one just does
            gc.collect()
            self._loaded, self._name = self._load(name), name
        return self._loaded

    def both(self, name: str) -> tuple[ChatBackend, ChatBackend]:
        """The base model and the fine-tuned one.

        Raises:
            InputError: the model does not say what it was made from, or its base cannot be loaded.
        """
        loaded = self.get(name)
        if loaded.base is None and isinstance(loaded, InMemory):
            base = load(open_model(_base_of(self._place(name)), self.registry), self.run, f"base of {name}").tuned
            # one prompt for both: the fine-tuned model's
            self._loaded = loaded = InMemory(
                loaded.tuned, ChatModel(base.model, loaded.tuned.prompter, loaded.tuned.encode)
            )
        if loaded.base is None:
            raise InputError("is at a URL, so its base model is unknown", where=name, todo="choose another model")
        return loaded.base, loaded.tuned

    def _load(self, name: str) -> Loaded:
        place = self._place(name)
        if is_url(str(place)):
            return Loaded(RemoteModel.at(str(place)))
        asked = name == self.first  # what the user said of this one holds for no other
        opened = open_model(place, self.registry, self.base if asked else None, self.trust and asked)
        return load(opened, self.run, place)

    def _place(self, name: str) -> str | Path:
        if name == self.first:
            return name
        try:
            return finished_runs(self.run.outputs)[name]
        except KeyError:
            raise InputError("no longer exists", where=name, todo="choose another model") from None


def _base_of(model: str | Path) -> str:
    """What the merged exporter wrote down as the base."""
    provenance = read_provenance(Path(model).expanduser())
    if provenance is None or provenance.base is None:
        todo = "choose an adapter, or a merged model made by loraplug"
        raise InputError("does not name the base model it was made from", where=model, todo=todo)
    return provenance.base
