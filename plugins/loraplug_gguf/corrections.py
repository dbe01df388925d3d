"""Where the converter reads a config or a tokenizer otherwise than transformers 5 keeps it; run in `driver.py` alone.

Each correction was found by asking llama.cpp and transformers the same of a tiny model of the family. Without them the
converter stops, or writes a file that llama.cpp does not load.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

ABSENT = -1
"""Stands for tensors that this `gguf` does not name; no model that is converted here has one."""


def name_absent_tensors(gguf: Any) -> None:
    """Let modules of the converter be loaded that name tensors their own `gguf` lacks.

    The wheel 0.1.1 carries a `gguf` older than its `conversion.deepseek`, which all of GLM and DeepSeek build on: they
    could not even be imported.
    """
    source = files("conversion").joinpath("deepseek.py").read_text(encoding="utf-8")
    for name in set(re.findall(r"gguf\.MODEL_TENSOR\.(\w+)", source)):
        if not hasattr(gguf.MODEL_TENSOR, name):
            setattr(gguf.MODEL_TENSOR, name, ABSENT)


def complete_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what the converter looks for under keys and words that transformers 5 has given up."""
    kind, rope = str(settings.get("model_type")), rope_settings(settings)
    layers = settings.get("layers_block_type")
    lacking: dict[str, dict[str, Any]] = {
        "cohere2": {"rotary_pct": rope.get("partial_rotary_factor", 1.0)},
        "deepseek_v3": {"scoring_func": "sigmoid"},
        "falcon_h1": {"head_dim": _head_dim(settings)},
        "gpt2": {"n_ctx": settings.get("n_positions")},
        "gpt_neox": {"rotary_pct": rope.get("partial_rotary_factor", 0.25)},
        "nemotron_h": {"num_hidden_layers": len(layers or ())},
    }
    made = lacking.get(kind, {}) | {key: value for key, value in settings.items() if value is not None}
    if kind in ("granitemoehybrid", "nemotron_h"):
        for key in ("layer_types", "layers_block_type"):
            if key in made:
                made[key] = [_LAYERS.get(one, one) for one in made[key]]
    return dict(settings) | made


_LAYERS = {"linear_attention": "mamba", "full_attention": "attention"}


def _head_dim(settings: Mapping[str, Any]) -> int:
    return int(settings.get("head_dim") or settings.get("hidden_size", 0) // (settings.get("num_attention_heads") or 1))


def rope_settings(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config's rotary entries, old and new."""
    return settings.get("rope_parameters") or settings.get("rope_scaling") or {}


def leave_out_drafts(kind: Any, folder: Path) -> None:
    """Expect no layers that draft several tokens where the checkpoint has none; transformers does not store them."""
    if getattr(kind, "supports_mtp_export", False) and not any(
        name.startswith(("mtp.", "model.mtp.")) for name in _tensor_names(folder)
    ):
        kind.no_mtp = True


def _tensor_names(folder: Path) -> list[str]:
    from loraplug_export import open_checkpoint

    return list(open_checkpoint(folder).tensors)


def set_byte_level(model: Any) -> None:
    """Say a byte-level vocabulary of tokenizer.json where the family's own way pads it, or looks for SentencePiece.

    Models with Mamba layers would be given more tokens than the file has rows for them.
    """
    if any(one.__name__ in ("MambaModel", "Mamba2Model") for one in type(model).__mro__):
        model._set_vocab_gpt2()  # noqa: SLF001 - the converter has no other name for it
        return
    try:
        type(model).set_vocab(model)
    except (FileNotFoundError, ValueError, KeyError) as error:
        # a file of SentencePiece's, or a token of GLM's own (which are written by what the tokenizer says of its ends)
        if not any(word in str(error) for word in ("tokenizer.model", "Llama BPE", "<|", "[gMASK]")):
            raise
        model._set_vocab_gpt2()  # noqa: SLF001


def is_byte_level(folder: Path) -> bool:
    """Whether tokenizer.json alone tells the vocabulary, and is byte-level BPE."""
    path = folder / "tokenizer.json"
    if not path.is_file() or (folder / "tokenizer.model").is_file():
        return False
    model = json.loads(path.read_text(encoding="utf-8")).get("model") or {}
    return model.get("type") == "BPE" and not model.get("byte_fallback")
