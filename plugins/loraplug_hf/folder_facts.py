"""Reads config, weight headers, tokenizer and chat template of a model folder, without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loraplug import BaseFacts, InputError, Problem
from loraplug_hf.files import Weights, check_whole, header, weights_of
from loraplug_hf.templates import file_text

_WHERE = "model.id"
_TOKENIZERS = ("tokenizer.*", "*.model", "vocab*", "*.tiktoken", "tekken.json")


def read_folder(folder: Path) -> tuple[BaseFacts, list[Problem]]:
    """The facts of a model folder, and problems: missing or damaged files, whose facts are left empty."""
    problems: list[Problem] = []

    def tried(read: Any, otherwise: Any) -> Any:
        try:
            return read(folder)
        except InputError as error:
            problems.append(Problem.of(error, _WHERE))
            return otherwise

    config = tried(_config, {})
    weights = tried(_weights, {})
    vocabulary = tried(_vocabulary, None)
    template = tried(_chat_template, None)
    added = tried(_added_tokens, None)
    return BaseFacts(folder, config, weights, vocabulary, template, added_tokens=added), problems


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("does not exist", where=path, todo="copy or download the model again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot be read ({error})", where=path, todo="the file may be incomplete: copy or download it again"
        ) from None
    if not isinstance(value, dict):
        raise InputError(
            "is not a JSON object", where=path, todo="the file may be incomplete: copy or download it again"
        )
    return value


def _config(folder: Path) -> dict[str, Any]:
    config = _json(folder / "config.json")
    if not config.get("model_type") and not config.get("auto_map"):
        todo = "give a folder written by save_pretrained"
        raise InputError("has no model_type", where=folder / "config.json", todo=todo)
    return config


def _weights(folder: Path) -> Weights:
    """Names, dtypes and shapes of all weights.

    Raises:
        InputError: there are none, or a file is missing, truncated, or not safetensors.
    """
    names = {path.name for path in folder.iterdir() if path.is_file()}
    found: Weights = {}
    for name in weights_of(names, lambda name: (folder / name).read_text(encoding="utf-8"), folder):
        check_whole(folder / name, folder, "the file may be incomplete: copy or download it again")
        found |= header(folder / name)
    return found


def _vocabulary(folder: Path) -> int | None:
    """The tokenizer's vocabulary size; None if its file does not tell.

    Raises:
        InputError: there is no tokenizer, or it cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        if any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):
            return None
        todo = "copy the model's tokenizer.json and tokenizer_config.json into the folder"
        raise InputError("has no tokenizer", where=folder, todo=todo)
    table = _json(path)
    try:
        words = table["model"]["vocab"]  # a mapping of texts to ids, or (Unigram) a list of pairs
        added = [token["id"] for token in table.get("added_tokens") or ()]
    except (KeyError, TypeError):
        return None
    return max([len(words), *(int(number) + 1 for number in added)])


def _added_tokens(folder: Path) -> frozenset[str] | None:
    """Added tokens of the tokenizer; None if its file does not tell."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        return frozenset(str(token["content"]) for token in _json(path).get("added_tokens") or ())
    except (KeyError, TypeError):
        return None


def _chat_template(folder: Path) -> str | None:
    """The default chat template, from any of the files that transformers reads it from."""
    if (folder / "chat_template.jinja").is_file():
        return file_text(folder / "chat_template.jinja")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file() and (found := _named(_json(folder / name).get("chat_template"))):
            return found
    return None


def _named(value: Any) -> str | None:
    """A template, or the one called `default` of several."""
    if isinstance(value, list):
        value = {str(one.get("name")): one.get("template") for one in value if isinstance(one, dict)}
    if isinstance(value, dict):
        value = value.get("default")
    return value if isinstance(value, str) else None


def stamp(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Names, sizes and times of a folder's files, to detect changes."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            found = path.stat()
            yield path.name, found.st_size, found.st_mtime_ns
