"""What can be written to GGUF here, told from config.json and tokenizer.json alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec

from loraplug import BaseFacts, InputError, Problem
from loraplug_export.choices import TypeName
from loraplug_export.gguf_config import WAY_OUT, carried
from loraplug_export.gguf_tokenizer import check_tokenizer


def gguf_problems(facts: BaseFacts | None, kind: TypeName, where: str) -> Iterator[Problem]:
    """What would stop an export to GGUF."""
    name = where.partition(".")[2]
    if kind == "q4_k_m" and find_spec("xllamacpp") is None:
        todo = "pip install xllamacpp; or export f16, and run llama.cpp's llama-quantize on it"
        yield Problem("exporter.type", f"q4_k_m needs llama.cpp's quantizer, and xllamacpp is not installed; {todo}")
    if facts is None:
        return
    for wrong in carried(facts.config):
        yield Problem("exporter", f"{name}: {wrong}; {WAY_OUT}")
    path = facts.folder / "tokenizer.json"
    if facts.is_gguf:
        return
    try:
        if not path.is_file():
            raise InputError("no tokenizer.json", where=facts.folder, todo="save the tokenizer beside the model")
        check_tokenizer(json.loads(path.read_text(encoding="utf-8")), path)
    except InputError as error:
        yield Problem.of(error, "exporter")
