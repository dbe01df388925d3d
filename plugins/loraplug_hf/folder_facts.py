"""What the files of a model folder say: configuration, headers of the weights, tokenizer, chat template. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loraplug import BaseFacts, InputError, Problem
from loraplug_hf.files import Weights, header

INDEX = "model.safetensors.index.json"
_WHERE = "model.id"
_TOKENIZERS = ("tokenizer.*", "*.model", "vocab*", "*.tiktoken", "tekken.json")
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")
_SHOWN = 4


def read_folder(folder: Path) -> tuple[BaseFacts, list[Problem]]:
    """What a model folder tells, and what of it is missing or broken; what cannot be read is left empty."""
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
    return BaseFacts(folder, config, weights, vocabulary, template), problems


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("is not there", where=path, todo="copy or download the model again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read ({error})", where=path, todo="copy or download it again") from None
    if not isinstance(value, dict):
        raise InputError("is not a JSON object", where=path, todo="copy or download it again")
    return value


def _config(folder: Path) -> dict[str, Any]:
    config = _json(folder / "config.json")
    if not config.get("model_type") and not config.get("auto_map"):
        todo = "give a folder that save_pretrained wrote"
        raise InputError("names no model_type", where=folder / "config.json", todo=todo)
    return config


def _weights(folder: Path) -> Weights:
    """Names, formats and shapes of all weights.

    Raises:
        InputError: a file that the index or the names of the others tell of is missing, ends too early, or is none.
    """
    found: Weights = {}
    for path in _files(folder):
        try:
            found |= header(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            text = " ".join(str(error).split())[:120]
            raise InputError(f"is not whole ({text})", where=path, todo="copy or download it again") from None
    return found


def _files(folder: Path) -> list[Path]:
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / INDEX).is_file():
        table = _json(folder / INDEX).get("weight_map")
        if not isinstance(table, dict):
            raise InputError("has no weight_map", where=folder / INDEX, todo="copy or download it again")
        wanted = sorted({str(name) for name in table.values()})
    elif "model.safetensors" in there:
        wanted = ["model.safetensors"]
    else:
        parts = [match for match in map(_PART.fullmatch, there) if match]
        wanted = [
            f"{stem}-{number:05}-of-{count}.safetensors"
            for stem, count in sorted({(part[1], part[3]) for part in parts})
            for number in range(1, int(count) + 1)
        ]
        wanted = sorted({*there, *wanted})
    missing = [name for name in wanted if name not in there]
    if missing:
        names = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
        what = f"{len(missing)} of {len(wanted)} files with weights are missing: {names}"
        raise InputError(what, where=folder, todo="copy or download them again")
    return [folder / name for name in wanted]


def _vocabulary(folder: Path) -> int | None:
    """How many tokens the tokenizer knows; None where its file is not one that tells.

    Raises:
        InputError: there is no tokenizer, or it cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        if any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):
            return None
        todo = "copy tokenizer.json and tokenizer_config.json of the model beside it"
        raise InputError("has no tokenizer", where=folder, todo=todo)
    table = _json(path)
    try:
        words = table["model"]["vocab"]  # a mapping of texts to numbers, or (Unigram) a list of pairs
        added = [token["id"] for token in table.get("added_tokens") or ()]
    except (KeyError, TypeError):
        return None
    return max([len(words), *(number + 1 for number in added)])


def _chat_template(folder: Path) -> str | None:
    """The default chat template, in whichever of the files transformers reads it from."""
    if (folder / "chat_template.jinja").is_file():
        return template_text(folder / "chat_template.jinja")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file() and (found := _named(_json(folder / name).get("chat_template"))):
            return found
    return None


def _named(value: Any) -> str | None:
    """A template, or that called `default` of several."""
    if isinstance(value, list):
        value = {str(one.get("name")): one.get("template") for one in value if isinstance(one, dict)}
    if isinstance(value, dict):
        value = value.get("default")
    return value if isinstance(value, str) else None


def template_text(path: Path) -> str:
    """A .jinja file's text.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=path, todo="check the path") from None


def stamp(folder: Path) -> Iterator[tuple[str, int, int]]:
    """What tells that a folder's files are still the same."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            found = path.stat()
            yield path.name, found.st_size, found.st_mtime_ns
