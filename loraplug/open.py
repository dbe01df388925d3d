"""Finds out what a finished model is made of, whatever it lies in, by asking the registry."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from loraplug.components import Exporter, ModelLoader, Quantizer
from loraplug.errors import InputError
from loraplug.registry import Registry

LOCK, ADAPTER = "recipe.lock.toml", "adapter_config.json"


@frozen
class Opened:
    """How to load a model: its base by `loader`, in fewer bits by `quantizer`, with the adapter folder put on it."""

    loader: ModelLoader
    quantizer: Quantizer | None = None
    adapter: Path | None = None


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

    loader: type[ModelLoader] = registry.find("model", "transformers")  # type: ignore[assignment]
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
