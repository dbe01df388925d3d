"""Finds the parts of a finished model (base, quantizer, adapter), whatever form it has."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from loraplug.config.secrets import REDACTED
from loraplug.context import Run
from loraplug.errors import InputError, LoraplugError
from loraplug.plugin.components import Exporter, Formatter, ModelLoader, Quantizer
from loraplug.plugin.registry import Registry
from loraplug.recipe.own_locks import TRUST, is_own

LOCK, ADAPTER, TOKENIZER = "recipe.lock.toml", "adapter_config.json", "tokenizer_config.json"


@frozen
class ModelReference:
    """How to load a model: its base by `loader`, in fewer bits by `quantizer`, with the adapter folder put on it.

    Attributes:
        own: the lock beside the adapter was written by a run of this user.
        trusted: the user believes what lies in the model's folder, Python code included.
        formatter: that of the recipe, where a lock that is believed names it.
    """

    loader: ModelLoader
    quantizer: Quantizer | None = None
    adapter: Path | None = None
    own: bool = False
    trusted: bool = False
    formatter: Formatter | None = None

    def encode_prompt(
        self, messages: Sequence[Mapping[str, Any]], tokenizer: Any, run: Run, tools: Any = None
    ) -> list[int]:
        """See `Formatter.encode_prompt`; by the formatter that the model was trained with, where that is known."""
        if self.formatter is None:
            from loraplug.pipeline.prompts import encode_prompt

            return encode_prompt(tokenizer, messages, tools)
        return self.formatter.encode_prompt(messages=messages, tokenizer=tokenizer, run=run, tools=tools)

    def load(self, run: Run, where: object) -> tuple[Any, Any]:
        """Model and tokenizer; with an adapter a `PeftModel` in evaluation mode, and the tokenizer saved with it.

        Args:
            where: the model as the user named it; errors name it.

        Raises:
            InputError: the base is missing, brings code, or the adapter is broken or of another shape.
        """
        from transformers.utils import logging

        from loraplug.adapters.load import put_on, tensor_names

        logging.set_verbosity_error()
        folder = self.adapter
        if folder is None:
            try:
                return self.loader.load_model(run=run, quantization=self.quantizer), self.loader.load_tokenizer(run=run)
            except LoraplugError as error:
                raise type(error)(error.what, where=error.where, todo=_about_trust(error.todo)) from error
        names = tensor_names(folder)
        code = _tokenizer_code(folder)
        if code and not self.trusted and not self.own:
            raise InputError(f"needs its own Python code ({code})", where=folder / TOKENIZER, todo=TRUST)
        try:
            model = self.loader.load_model(run=run, quantization=self.quantizer)
            # a run of one's own that trusts its base's code has its tokenizer from there; what lies beside is not run
            at_base = code and not self.trusted and getattr(self.loader, "trust_remote_code", False)
            tokenizer = (
                self._saved_tokenizer(folder)
                if has_tokenizer(folder) and not at_base
                else self.loader.load_tokenizer(run=run)
            )
        except LoraplugError as error:
            todo = f"{_about_trust(error.todo)}; or give the same base at another path with --base"
            what = f"its base cannot be loaded: {error.where}: {error.what}"
            raise type(error)(what, where=where, todo=todo) from error
        return put_on(model, folder, names, run.warn), tokenizer

    def load_beside(self, model: Any, name: str) -> None:
        """Give a `PeftModel` that another reference to the same base has loaded this one's adapter too, in place.

        Args:
            name: by which peft is to know it.

        Raises:
            InputError: the adapter is broken, of another shape, or of a kind that lies beside no other.
        """
        from loraplug.adapters.load import put_beside, tensor_names

        assert self.adapter is not None  # noqa: S101 - asked of references to adapters alone
        put_beside(model, self.adapter, tensor_names(self.adapter), name)

    def load_tokenizer(self, run: Run) -> Any:
        """The tokenizer saved with the adapter, else the base's.

        Raises:
            InputError: it cannot be read, or brings code that is not believed.
        """
        folder = self.adapter
        if folder is None or not has_tokenizer(folder):
            return self.loader.load_tokenizer(run=run)
        if (code := _tokenizer_code(folder)) and not self.trusted:
            raise InputError(f"needs its own Python code ({code})", where=folder / TOKENIZER, todo=TRUST)
        return self._saved_tokenizer(folder)

    def _saved_tokenizer(self, folder: Path) -> Any:
        """The tokenizer beside an adapter, with the training's template."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=self.trusted)
        except Exception as error:  # the tokenizers library raises nothing narrower
            text = " ".join(str(error).split())[:300]
            raise InputError(
                f"its tokenizer cannot be read: {text}", where=folder, todo="the file may be incomplete: copy it again"
            ) from error


def open_model(model: str | Path, registry: Registry, base: str | None = None, trust: bool = False) -> ModelReference:
    """Find a model's parts; nothing is loaded.

    The lock beside an adapter is believed if a run of this user has written it. From another one only what
    `foreign_layers` lets through is taken.

    Args:
        model: a model folder, an adapter folder, a `.gguf` file, `package:NAME/FILE.gguf`, or owner/name on the hub.
        base: what to take as an adapter's base, in place of the one that its recipe lock or its config names.
        trust: believe the lock whoever wrote it, and run Python code that comes with the model.

    Raises:
        InputError: an adapter names no base, its lock asks for what is not taken from others, or for a plugin that is
            not installed.
    """
    from loraplug.recipe.building import build_part
    from loraplug.recipe.foreign import foreign_layers
    from loraplug.recipe.layers import read_layers

    folder = Path(model).expanduser().absolute()
    if not (folder / ADAPTER).is_file():
        return ModelReference(_transformers(str(model), registry, trust), trusted=trust)
    lock = lock_beside(folder)
    own = lock is not None and lock.own
    if base is not None:
        return ModelReference(_transformers(base, registry, trust), adapter=folder, own=own, trusted=trust)
    if lock is None:
        named = _named_base(folder / ADAPTER)
        return ModelReference(_transformers(named, registry, trust), adapter=folder, trusted=trust)
    if REDACTED in str(lock.table.get("model")):
        what = "its lock file does not contain the path of the base: it is removed when an adapter is pushed to a hub"
        raise InputError(what, where=lock.path, todo="give the base with --base")
    layers = (
        read_layers(lock.path, environ=False)
        if own or trust
        else foreign_layers(lock.table, lock.path, folder, registry, has_tokenizer(folder))
    )
    loader, quantizer = build_part(layers, registry, "model"), build_part(layers, registry, "quantizer")
    if trust and hasattr(loader, "trust_remote_code"):
        loader = evolve(loader, trust_remote_code=True)
    formatter = build_part(layers, registry, "formatter") if (own or trust) and "formatter" in layers.table else None
    return ModelReference(loader, quantizer, folder, own, trust, formatter)


@frozen
class Lock:
    """The recipe lock that lies beside a model, and whether a run of this user has written it."""

    path: Path
    table: dict[str, Any]
    own: bool


def lock_beside(model: str | Path) -> Lock | None:
    """The lock of a model's folder; that of its run's folder, where the adapter still lies in it.

    Raises:
        InputError: it cannot be read.
    """
    from loraplug.recipe.foreign import parse_lock

    folder = Path(model).expanduser().absolute()
    for path in (folder / LOCK, *([folder.parent / LOCK] if folder.name == "adapter" else [])):
        if path.is_file():
            try:
                text = path.read_bytes()
            except OSError as error:
                raise InputError(f"cannot be read ({error})", where=path, todo="give the base with --base") from None
            return Lock(path, parse_lock(text, path), is_own(text))
    return None


def find_exporter(use: str, registry: Registry, settings: tuple[str, ...] = ()) -> Exporter:
    """An exporter with options from `key=value` words; InputError with every problem of them in one go."""
    from loraplug.recipe.building import build_part
    from loraplug.recipe.layers import component_layers

    registry.find("exporter", use)  # whose error speaks of the name alone
    exporter: Exporter = build_part(component_layers("exporter", use, settings), registry, "exporter")
    return exporter


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer lies beside an adapter."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def _tokenizer_code(folder: Path) -> str | None:
    """What a tokenizer's config names as its Python code."""
    try:
        named = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))["auto_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return str(named)[:120] if named else None


def _about_trust(todo: str | None) -> str | None:
    """What to do, for one who has no recipe to write it into."""
    return TRUST if todo and "trust_remote_code" in todo else todo


def _transformers(id: str, registry: Registry, trust: bool) -> ModelLoader:  # noqa: A002 - the recipe's own word
    from loraplug.config.tables import absolute

    loader: type[ModelLoader] = registry.built_in("model", "transformers")  # type: ignore[assignment]
    code = {"trust_remote_code": True} if trust else {}
    return loader(id=absolute(id, Path.cwd(), sure=False), **code)  # type: ignore[call-arg]


def _named_base(config: Path) -> str:
    try:
        named = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, OSError):
        named = None
    if isinstance(named, str) and re.match(r"[\\/]{2}", named):  # Windows would tell that machine who asks
        what = f"its base is a network path ({named[:120]!r})"
        raise InputError(what, where=config, todo="if you trust it, give it with --base")
    if not isinstance(named, str) or not named:
        todo = "copy the adapter again, or give its base with --base"
        raise InputError("names no base model (base_model_name_or_path)", where=config, todo=todo)
    return named
