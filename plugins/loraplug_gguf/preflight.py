"""What llama.cpp would not take, or would take for another, told from config.json and tokenizer.json alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loraplug import BaseFacts, InputError, Problem, Run
from loraplug_gguf.choices import CONVERTED, TypeName
from loraplug_gguf.converter import architectures, find_converter
from loraplug_gguf.proved import CERTIFIED, faults, unproved
from loraplug_gguf.settings import WAY_OUT, carried
from loraplug_gguf.stripping import unlike
from loraplug_gguf.vocabulary import check_tokenizer


def gguf_problems(
    facts: BaseFacts | None, kind: TypeName, where: str, run: Run, proved: bool = False
) -> Iterator[Problem]:
    """What would stop an export to GGUF; `proved`: whether a certificate is asked for."""
    name = where.partition(".")[2]
    if kind not in CONVERTED and find_spec("xllamacpp") is None:
        todo = "pip install xllamacpp; or export f16, and run llama.cpp's llama-quantize on it"
        yield Problem("exporter.type", f"{kind} needs llama.cpp's quantizer, and xllamacpp is not installed; {todo}")
    if facts is None:
        return
    try:
        for wrong in config_problems(facts.config, run):
            yield Problem("exporter", f"{name}: {wrong}; {WAY_OUT}")
        if not proved and (lacking := unproved(facts.config)):
            yield Problem("exporter", f"{name}: {lacking}")
        if not facts.is_gguf:
            _tokenizer(facts.folder, run, proved)
    except InputError as error:
        yield Problem.of(error, "exporter")


def config_problems(config: Mapping[str, Any], run: Run) -> Iterator[str]:
    """Settings that llama.cpp does not heed, and an architecture that its converter does not have.

    Raises:
        InputError: the converter cannot be had.
    """
    yield from carried(config)
    yield from faults(config)
    named = (config.get("text_config") or {}).get("architectures") or config.get("architectures")
    if named and named[0] not in architectures(find_converter(run)):
        yield f"llama.cpp's converter does not support {named[0]} ({config.get('model_type')})"


def check_folder(folder: Path, run: Run, proved: bool = False) -> None:
    """The same of a model folder that is here.

    Raises:
        InputError: llama.cpp does not take such a model, or its tokenizer.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if problems := list(config_problems(config, run)):
        raise InputError("; ".join(problems), where=path, todo=WAY_OUT)
    if not proved and (wrong := unproved(config)):
        raise InputError(wrong, where=path, todo="ask for a certificate, or export merged")
    _tokenizer(folder, run, proved)


def _tokenizer(folder: Path, run: Run, proved: bool) -> None:
    path = folder / "tokenizer.json"
    if path.is_file():
        data = json.loads(path.read_text(encoding="utf-8"))
        check_tokenizer(data, path, find_converter(run))
        if not proved and (wrong := unlike(data)):
            raise InputError(f"{wrong}; {CERTIFIED}", where=path, todo="ask for a certificate, or export merged")
    elif not (folder / "tokenizer.model").is_file():
        raise InputError("no tokenizer.json", where=folder, todo="save the tokenizer beside the model")
