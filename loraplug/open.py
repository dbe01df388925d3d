"""Finds out what a finished model is made of, whatever it lies in, by asking the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import frozen

from loraplug.components import Exporter, ModelLoader, Quantizer
from loraplug.context import Run
from loraplug.errors import InputError, LoraplugError
from loraplug.registry import Registry
from loraplug_tables.secrets import REDACTED

LOCK, ADAPTER = "recipe.lock.toml", "adapter_config.json"


@frozen
class Opened:
    """How to load a model: its base by `loader`, in fewer bits by `quantizer`, with the adapter folder put on it."""

    loader: ModelLoader
    quantizer: Quantizer | None = None
    adapter: Path | None = None

    def load(self, run: Run, where: object) -> tuple[Any, Any]:
        """Model and tokenizer; with an adapter a `PeftModel` in evaluation mode, and the tokenizer saved with it.

        Args:
            where: the model as the user named it; errors name it.

        Raises:
            InputError: the base is missing, or the adapter is broken or of another shape.
        """
        from transformers import AutoTokenizer
        from transformers.utils import logging

        from loraplug_adapters.load import put_on, tensor_names

        logging.set_verbosity_error()
        folder = self.adapter
        if folder is None:
            return self.loader.load_model(run=run, quantization=self.quantizer), self.loader.load_tokenizer(run=run)
        names = tensor_names(folder)
        try:
            model = self.loader.load_model(run=run, quantization=self.quantizer)
            if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)  # with the training's template
            else:
                tokenizer = self.loader.load_tokenizer(run=run)
        except LoraplugError as error:
            todo = f"{error.todo}; or name another place of the same base with --base"
            what = f"its base cannot be loaded: {error.where}: {error.what}"
            raise type(error)(what, where=where, todo=todo) from error
        return put_on(model, folder, names), tokenizer


def open_model(model: str | Path, registry: Registry, base: str | None = None) -> Opened:
    """Find a model's parts; nothing is loaded.

    Args:
        model: a model folder, an adapter folder, a `.gguf` file, `package:NAME/FILE.gguf`, or owner/name on the hub.
        base: what to take as an adapter's base, in place of the one that its recipe lock or its config names.

    Raises:
        InputError: an adapter names no base, or its lock needs a plugin that is not installed.
    """
    from loraplug.layers import read_layers
    from loraplug.recipe import build_part

    folder = Path(model).expanduser().absolute()
    if not (folder / ADAPTER).is_file():
        return Opened(_transformers(str(model), registry))
    if base is not None:
        return Opened(_transformers(base, registry), adapter=folder)
    # an adapter that was not exported lies in its run's folder, with the lock beside it
    for lock in (folder / LOCK, *([folder.parent / LOCK] if folder.name == "adapter" else [])):
        if lock.is_file():
            layers = read_layers(lock, environ=False)
            if REDACTED in str(layers.value(("model",))):
                what = "its lock file does not tell where the base lies: that is left out of what is pushed to a hub"
                raise InputError(what, where=lock, todo="name the base with --base")
            return Opened(build_part(layers, registry, "model"), build_part(layers, registry, "quantizer"), folder)
    return Opened(_transformers(_named_base(folder / ADAPTER), registry), adapter=folder)


def find_exporter(use: str, registry: Registry, settings: tuple[str, ...] = ()) -> Exporter:
    """An exporter with options from `key=value` words; InputError with every problem of them in one go."""
    from loraplug.layers import component_layers
    from loraplug.recipe import build_part

    registry.find("exporter", use)  # whose error speaks of the name alone
    exporter: Exporter = build_part(component_layers("exporter", use, settings), registry, "exporter")
    return exporter


def _transformers(id: str, registry: Registry) -> ModelLoader:  # noqa: A002 - the recipe's own word
    from loraplug_tables.layers import absolute

    loader: type[ModelLoader] = registry.built_in("model", "transformers")  # type: ignore[assignment]
    return loader(id=absolute(id, Path.cwd(), sure=False))  # type: ignore[call-arg]


def _named_base(config: Path) -> str:
    import json

    try:
        named = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, OSError):
        named = None
    if not isinstance(named, str) or not named:
        todo = "copy the adapter again, or name its base with --base"
        raise InputError("names no base model (base_model_name_or_path)", where=config, todo=todo)
    return named
