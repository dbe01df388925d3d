"""What a config says and a GGUF file would not is refused before any work."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from loraplug import BaseFacts, Problem
from loraplug_gguf.exporter import GgufExporter
from loraplug_gguf.ollama import OllamaExporter
from loraplug_gguf.settings import BESIDE, CARRIED, FAMILIES, GEMMA3, OF_GEMMA3, carried

MISTRAL = {"model_type": "mistral", "max_position_embeddings": 32768, "num_hidden_layers": 2}
QWEN = {"model_type": "qwen2", "max_position_embeddings": 32768, "num_hidden_layers": 4, "use_sliding_window": True}
SMOLLM2 = {
    "_attn_implementation_autoset": True, "architectures": ["LlamaForCausalLM"], "attention_bias": False,
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576,
    "initializer_range": 0.041, "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192,
    "mlp_bias": False, "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30,
    "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False,
    "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "transformers_version": "4.42.3",
    "use_cache": True, "vocab_size": 49152,
}  # fmt: skip


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gemma3"])  # which nests another's
def test_every_key_of_the_family_is_known(family):
    """Another version of transformers that reads a new key from a config has to be looked at."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family]
    known = CARRIED | BESIDE | (OF_GEMMA3 if family in GEMMA3 else set())
    assert {field.name for field in fields(kind)} <= known
    assert carried(kind(sliding_window=None).to_dict() if family == "mistral" else kind().to_dict()) == []


def test_published_configs_are_carried():
    """The config of SmolLM2 as it stands on the hub, keys that nobody reads included."""
    assert carried(SMOLLM2) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MISTRAL | {"sliding_window": 4096}, ["sliding_window = 4096"]),
        (MISTRAL, ["sliding_window = 4096"]),  # transformers' default
        (MISTRAL | {"sliding_window": None}, []),
        (MISTRAL | {"sliding_window": 32768}, []),
        (QWEN | {"sliding_window": 4096, "max_window_layers": 2}, ["sliding_window = 4096"]),
        (QWEN | {"sliding_window": 4096, "max_window_layers": 4}, []),
        (QWEN | {"sliding_window": 4096, "layer_types": ["full_attention"] * 4}, []),
        (QWEN | {"use_sliding_window": False, "sliding_window": 4096}, []),
        (QWEN | {"layer_types": ["chunked_attention"]}, ["chunked_attention"]),
        (SMOLLM2 | {"attn_logit_softcapping": 50.0, "hidden_act": "gelu"}, ["attn_logit_softcapping = 50.0", "gelu"]),
        (SMOLLM2 | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["dynamic"]),
        (SMOLLM2 | {"rope_scaling": {"type": "linear", "factor": 2.0}}, []),
        (SMOLLM2 | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ["lacks high_freq_factor"]),
        (SMOLLM2 | {"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": [1]}}, ["mrope_section"]),
        (SMOLLM2 | {"partial_rotary_factor": 0.5}, ["partly rotated"]),
        (SMOLLM2 | {"quantization_config": {"load_in_4bit": True}}, ["quantization_config"]),
        (SMOLLM2 | {"unk_token_id": 0}, []),
        ({"model_type": "gemma2", "attn_logit_softcapping": 50.0}, []),  # of others the certificate tells
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, ["final_logit_softcapping = 30.0"]),
        ({"model_type": "gemma3", "vision_config": {"image_size": 896}}, ["vision_config"]),
        ({}, []),
    ],
)
def test_what_is_not_carried_is_told(config, words):
    """Each in a sentence of its own, and all of them."""
    problems = carried(config)
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))


class Recipe:
    """All that the exporter asks of a recipe: what the files of the base tell."""

    def __init__(self, facts):
        self.model = self
        self.facts = lambda run: facts


@pytest.mark.parametrize("exporter", [GgufExporter, OllamaExporter])
def test_preflight_says_it_and_the_way_out(exporter, tmp_path):
    """A base that is not at hand, or was a GGUF file, is judged later."""
    from loraplug import Run

    run = Run("x")
    tokenizer = {"model": {"type": "BPE", "byte_fallback": True}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))

    def told(config, **facts):
        known = BaseFacts(tmp_path, json.loads(json.dumps(config)), chat_template="{{ messages }}", **facts)
        return list(exporter().preflight(run, Recipe(known)))

    (found,) = told(MISTRAL)
    assert isinstance(found, Problem) and found.path == "exporter"
    assert "sliding_window = 4096" in found.message and "LORAPLUG_CONVERTER" in found.message
    assert not list(exporter().preflight(run, Recipe(None)))
    assert not told({"model_type": "llama"}, is_gguf=True)
    assert not told(SMOLLM2)
