"""What can be written to GGUF here, told from config.json and tokenizer.json alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from loraplug import BaseFacts, InputError, Problem
from loraplug_export.choices import TypeName
from loraplug_export.gguf_tokenizer import WAY_OUT, check_tokenizer

FAMILIES = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
"""transformers' `model_type` to the name in `gguf.MODEL_ARCH`."""
ROPES = ("default", "linear", "llama3", "yarn")


def unknown_setting(config: Mapping[str, Any]) -> str | None:
    """What of a model's configuration is not written to GGUF here, in words; None where all of it is.

    `config` is config.json as it stands, whose rotary embedding older versions of transformers called `rope_scaling`.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        return f"{family} models are not written to GGUF here (only {', '.join(FAMILIES)})"
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ROPES:
        return f'rope scaling "{kind}" is not written to GGUF here'
    ramp = (rope.get("beta_fast") or 32, rope.get("beta_slow") or 1, rope.get("truncate", True))
    if kind == "yarn" and ramp != (32, 1, True):  # llama.cpp does not heed the file's ramp in these families
        return "YaRN with a ramp of its own is not written to GGUF here"
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0) != 1.0:
        return "partly rotated heads are not written to GGUF here"
    if family != "mistral" and config.get("use_sliding_window"):
        return "sliding-window attention is not written to GGUF here"
    return None


def gguf_problems(facts: BaseFacts | None, kind: TypeName, where: str) -> Iterator[Problem]:
    """What would stop an export to GGUF."""
    name = where.partition(".")[2]
    if kind == "q4_k_m" and find_spec("xllamacpp") is None:
        todo = "pip install xllamacpp; or export f16, and run llama.cpp's llama-quantize on it"
        yield Problem("exporter.type", f"q4_k_m needs llama.cpp's quantizer, and xllamacpp is not installed; {todo}")
    if facts is None:
        return
    if wrong := unknown_setting(facts.config):
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
