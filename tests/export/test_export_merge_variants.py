"""Merged models answer like base + adapter, whatever the adapter's kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loraplug_export.merged import MergedExporter

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
UNTIED = {"tie_word_embeddings": False}
TIED = {"tie_word_embeddings": True}

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (UNTIED, {}),
    "plain, tied": (TIED, {}),
    "sharded": (UNTIED | {"shards": "60KB"}, {}),
    "sharded, tied": (TIED | {"shards": "60KB"}, {}),
    "some layers": (UNTIED, {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "rsLoRA": (UNTIED, {"use_rslora": True}),
    "DoRA": (UNTIED, {"use_dora": True}),
    "rsLoRA and DoRA": (UNTIED, {"use_dora": True, "use_rslora": True}),
    "patterns": (
        UNTIED,
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 8}, "alpha_pattern": {"k_proj": 3, "o_proj": 32}},
    ),
    "patterns and rsLoRA": (
        UNTIED,
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 5}, "use_rslora": True},
    ),
    "head": (UNTIED, {"target_modules": [*LINEAR, "lm_head"]}),
    "head, tied": (TIED, {"target_modules": [*LINEAR, "lm_head"]}),
    "head, tied, sharded": (TIED | {"shards": "60KB"}, {"target_modules": [*LINEAR, "lm_head"]}),
    "embedding": (UNTIED, {"target_modules": [*LINEAR, "embed_tokens"]}),
    "embedding, tied": (TIED, {"target_modules": [*LINEAR, "embed_tokens"]}),
    "embedding with DoRA": (UNTIED, {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}),
    "embedding with DoRA, tied": (TIED, {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}),
    "both ends, tied": (TIED, {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "both ends tied together": (TIED, {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}),
    "both whole ends tied together": (TIED, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "head tied to the embedding": (TIED, {"target_modules": ["lm_head", "q_proj"], "ensure_weight_tying": True}),
    "whole head": (UNTIED, {"modules_to_save": ["lm_head"]}),
    "whole head, tied": (TIED, {"modules_to_save": ["lm_head"]}),
    "whole embedding, tied": (TIED, {"modules_to_save": ["embed_tokens"]}),
    "both ends whole": (UNTIED, {"modules_to_save": ["lm_head", "embed_tokens"]}),
    "both ends whole, tied": (TIED, {"modules_to_save": ["lm_head", "embed_tokens"]}),
    "whole norms": (UNTIED, {"modules_to_save": ["norm", "input_layernorm"]}),
    "LoRA biases": (UNTIED | {"attention_bias": True, "mlp_bias": True}, {"lora_bias": True}),
    "trained biases": (UNTIED | {"attention_bias": True}, {"bias": "all"}),
    "trained biases of targets": (UNTIED | {"attention_bias": True}, {"bias": "lora_only"}),
    "more words": (UNTIED | {"resize": 130}, {}),
    "more words, tied": (TIED | {"resize": 130}, {}),
    "more words, embedding, tied": (TIED | {"resize": 130}, {"target_modules": ["embed_tokens", "q_proj"]}),
    "qwen2": (UNTIED | {"model_type": "qwen2"}, {}),
    "qwen3": (TIED | {"model_type": "qwen3", "head_dim": 16}, {}),
    "mistral": (UNTIED | {"model_type": "mistral"}, {}),
    "gemma3": (TIED | {"model_type": "gemma3_text"}, {"target_modules": ["embed_tokens", "q_proj", "down_proj"]}),
}

GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 120, "n_positions": 80}
TRANSPOSED = {
    "Conv1D": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "Conv1D with DoRA": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True},
    "Conv1D with biases": {"target_modules": ["c_attn"], "fan_in_fan_out": True, "lora_bias": True},
}


def check(make_base, make_adapter, trained, logits, base_options, lora, tmp_path):
    import torch
    from peft import LoraConfig

    base_options = dict(base_options)
    resize = base_options.pop("resize", None)
    base = make_base(**base_options)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "task_type": "CAUSAL_LM"} | lora
    adapter = make_adapter(base, LoraConfig(**settings), resize=resize)
    result = trained(adapter, base)
    merged = MergedExporter().export(result, tmp_path / "merged")
    wanted = logits(base, adapter, resize)
    got = logits(merged)
    assert not torch.allclose(wanted, logits(base, resize=resize), atol=1e-2), "the adapter does nothing"
    assert got.shape == wanted.shape
    assert float((got - wanted).abs().max()) < 1e-4
    assert sorted(base.glob("*.safetensors*")) and not list(merged.glob("*.bin"))
    return result, merged


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_answers_like_base_and_adapter(variant, make_base, make_adapter, trained, logits, tmp_path):
    """Logits agree within 1e-4 in fp32, the layer proof ran, and the adapter does change the answers."""
    result, merged = check(make_base, make_adapter, trained, logits, *VARIANTS[variant], tmp_path)
    proof = json.loads((merged / "loraplug.json").read_text())["proof"]
    assert 0 <= proof["relative"] <= proof["allowed"] and proof["tokens"] > 0
    assert any("compared with base + adapter" in line for line in result.run.reporter.lines)


@pytest.mark.parametrize("variant", TRANSPOSED)
def test_transposed_weights_merge(variant, make_base, make_adapter, trained, logits, tmp_path):
    """GPT-2 stores its linear weights as (inputs, outputs)."""
    check(make_base, make_adapter, trained, logits, GPT2, TRANSPOSED[variant], tmp_path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_output_keeps_the_type_of_the_base(dtype, make_base, make_adapter, trained, tmp_path):
    """The merge is done in fp32 and rounded once: each value is the nearest one to the exact merge."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import load_file

    base = make_base(dtype=dtype)
    adapter = make_adapter(base, LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR, task_type="CAUSAL_LM"))
    merged = MergedExporter().export(trained(adapter, base), tmp_path / "merged")
    old, new = load_file(base / "model.safetensors"), load_file(merged / "model.safetensors")
    lora = load_file(adapter / "adapter_model.safetensors")
    assert old.keys() == new.keys()
    for name, weight in old.items():
        assert new[name].dtype == getattr(torch, dtype)
        head = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{head}.lora_A.weight" not in lora:
            assert torch.equal(weight, new[name])
            continue
        exact = weight.double() + 2 * lora[f"{head}.lora_B.weight"].double() @ lora[f"{head}.lora_A.weight"].double()
        unit = torch.finfo(weight.dtype).eps / 2
        assert bool(((new[name].double() - exact).abs() <= unit * exact.abs() * 1.01 + 1e-7).all())


def test_index_and_metadata_stay(make_base, make_adapter, trained, tmp_path):
    """A sharded base gives the same shards with a right index; an untied head is added to it."""
    from peft import LoraConfig
    from safetensors import safe_open

    base = make_base(shards="60KB", tie_word_embeddings=True)
    adapter = make_adapter(base, LoraConfig(r=4, target_modules=["lm_head", "q_proj"], task_type="CAUSAL_LM"))
    merged = MergedExporter().export(trained(adapter, base), tmp_path / "merged")
    old, new = (json.loads((folder / "model.safetensors.index.json").read_text()) for folder in (base, merged))
    assert new["weight_map"] == old["weight_map"] | {"lm_head.weight": old["weight_map"]["model.embed_tokens.weight"]}
    assert new["metadata"]["total_size"] == old["metadata"]["total_size"] + 120 * 64 * 4
    for file in set(new["weight_map"].values()):
        with safe_open(merged / file, "pt") as stored:
            assert stored.metadata() == {"format": "pt"}
            assert set(stored.keys()) == {name for name, where in new["weight_map"].items() if where == file}
    assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is False
