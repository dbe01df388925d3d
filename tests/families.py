"""Tiny random models, one of each kind of causal language model that transformers has.

    from families import DENSE, FAMILIES, build, save

    model = build("gpt_oss")                    # a PreTrainedModel in evaluation mode, float32, always the same
    folder = save("gpt_oss", tmp_path / "base") # safetensors, config and the tokenizer of `loraplug.testing`

A family is a name, transformers' `model_type` and what its config says beyond the sizes that all share. Sizes are
multiples of 64 where a weight's rows lie, so that 4-bit blocks fit; windows and chunks are 8 tokens, so that short rows
already cross them. All weights are drawn, those that transformers leaves at one value too (raw expert tensors, routers,
norms): a part that does nothing would hide what is wrong with it. `more_families` has further ones by model type.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from family import VOCABULARY, Family
from more_families import MORE

_LATENT = {"kv_lora_rank": 64, "q_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16}
_LATENT |= {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "head_dim": None}
_DELTA = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
}
_DELTA |= {"num_hidden_layers": 4, "linear_conv_kernel_dim": 4}
_SECTIONS = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5,
                                 "mrope_section": [2, 1, 1], "mrope_interleaved": True}}  # fmt: skip
_MAMBA2 = {"mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16}
_MAMBA2 |= {"mamba_chunk_size": 8, "mamba_expand": 2, "mamba_d_conv": 4}
_WINDOWED = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}


def _windowed(layers: int) -> dict[str, Any]:
    """As many layers, of which the last sees all: as published models of the family have it throughout."""
    kinds = ["sliding_attention"] * (layers - 1) + ["full_attention"]
    return {"num_hidden_layers": layers, "sliding_window": 8, "layer_types": kinds}


_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32,
    "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
}  # fmt: skip


DENSE: dict[str, Family] = {
    "llama": Family("llama"),
    "mistral": Family("mistral", {"sliding_window": 8}),
    "qwen2": Family("qwen2", {"tie_word_embeddings": True}),
    "qwen3": Family("qwen3"),
    "gemma2": Family("gemma2", {**_WINDOWED, "query_pre_attn_scalar": 16}),
    "gemma3": Family("gemma3_text", {**_windowed(6), "query_pre_attn_scalar": 16}),
    "phi": Family("phi", {"num_key_value_heads": 4, "intermediate_size": 256}),
    "phi3": Family("phi3"),
    "olmo2": Family("olmo2"),
    "smollm3": Family("smollm3"),
    "granite": Family("granite"),
    "glm4": Family("glm4", {"pad_token_id": 0}),
    "gpt_neox": Family("gpt_neox"),
    "gpt2": Family("gpt2", {"n_inner": 256, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "starcoder2": Family("starcoder2"),
    "cohere2": Family("cohere2", {**_windowed(4), "logit_scale": 1.0}),
}
_OTHERS: dict[str, Family] = {
    # masks or states without position_ids
    "opt": Family("opt", {"ffn_dim": 128, "word_embed_proj_dim": 64, "dropout": 0.0}),
    "gpt_oss": Family("gpt_oss", {**_WINDOWED, "intermediate_size": 64}, experts=True),
    "mamba": Family("mamba", {"state_size": 16, "time_step_rank": 64, "head_dim": None}),
    "jamba": Family(
        "jamba",
        {
            "num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2, "expert_layer_period": 2,
            "expert_layer_offset": 1, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 64,
            "use_mamba_kernels": False,
        },
        experts=True,
    ),
    # states that need packages to be laid end to end
    "mamba2": Family("mamba2", {"num_heads": 8, "state_size": 16, "n_groups": 1, "chunk_size": 8}),
    "bamba": Family("bamba", {**_MAMBA2, "attn_layer_indices": [1]}),
    "falcon_h1": Family("falcon_h1", _MAMBA2),
    "lfm2": Family("lfm2", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    "lfm2_moe": Family("lfm2_moe", {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1}, experts=True),
    "granitemoehybrid": Family(
        "granitemoehybrid", {**_MAMBA2, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 64},
        experts=True,
    ),
    "nemotron_h": Family(
        "nemotron_h",
        {
            "num_hidden_layers": 3, "layers_block_type": ["mamba", "attention", "moe"], "mamba_num_heads": 8,
            "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 1, "chunk_size": 8,
            "moe_shared_expert_intermediate_size": 64,
        },
        experts=True,
    ),
    # blocks that several layers share
    "zamba2": Family(
        "zamba2",
        {
            "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "mamba_d_state": 16,
            "mamba_ngroups": 1, "n_mamba_heads": 8, "mamba_headdim": 16, "chunk_size": 8, "num_mem_blocks": 1,
            "adapter_rank": 64, "head_dim": None,
        },
    ),
    "qwen3_next": Family("qwen3_next", _DELTA, experts=True),
    "qwen3_5": Family("qwen3_5_text", _DELTA | _SECTIONS),
    "qwen3_5_moe": Family("qwen3_5_moe_text", _DELTA | _SECTIONS, experts=True),
    # experts
    "mixtral": Family("mixtral", experts=True),
    "qwen2_moe": Family("qwen2_moe", experts=True),
    "qwen3_moe": Family("qwen3_moe", {"norm_topk_prob": True}, experts=True),
    "olmoe": Family("olmoe", {"num_key_value_heads": 4}, experts=True),
    "granitemoe": Family("granitemoe", experts=True),
    "phimoe": Family("phimoe", experts=True),
    "deepseek_v2": Family("deepseek_v2", _LATENT, experts=True),
    "deepseek_v3": Family("deepseek_v3", _LATENT, experts=True),
    "zaya": Family("zaya", {"num_experts_per_tok": 1}, experts=True),
    "glm4_moe": Family("glm4_moe", {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}, experts=True),
    "llama4": Family(
        "llama4_text",
        {"intermediate_size": 64, "intermediate_size_mlp": 128, "attention_chunk_size": 8, "num_hidden_layers": 4,
         "interleave_moe_layer_step": 2, "num_experts_per_tok": 1},
        experts=True,
    ),
    "deepseek_v4": Family(
        "deepseek_v4",
        {
            "num_key_value_heads": 1, "head_dim": 32, "q_lora_rank": 64, "o_lora_rank": 64, "o_groups": 2,
            "sliding_window": 8, "hc_mult": 2, "index_n_heads": 2, "index_head_dim": 32, "index_topk": 8,
            "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention"],
            "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
            "mlp_layer_types": ["hash_moe", "moe"],
        },
        experts=True,
    ),
    # recurrent, without attention
    "rwkv": Family("rwkv", {"num_hidden_layers": 8, "attention_hidden_size": 64, "context_length": 512,
                            "rescale_every": 0}),
    "xlstm": Family("xlstm", {"num_heads": 4, "num_blocks": 2, "qk_dim_factor": 1.0, "v_dim_factor": 1.0,
                              "chunk_size": 16}),
    # positions and sizes of other shapes
    "phi3_longrope": Family("phi3", {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 32,
                                     "sliding_window": 256}),
    "gemma3n": Family(
        "gemma3n_text",
        {
            **_WINDOWED, "intermediate_size": [128, 128], "activation_sparsity_pattern": [0.0, 0.0], "laurel_rank": 64,
            "hidden_size_per_layer_input": 64, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY,
        },
    ),
}  # fmt: skip
FAMILIES: dict[str, Family] = {**DENSE, **_OTHERS}


def build(name: str) -> Any:
    """A family's model in float32 and evaluation mode, the same at every call; its vocabulary is the tokenizer's."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from loraplug.testing import tiny_tokenizer

    family, tokenizer = FAMILIES.get(name) or MORE[name], tiny_tokenizer()
    given = family.options(len(tokenizer))
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family.model_type](**{**ids, **given}))
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                _draw(parameter_name, parameter)
    model.config.architectures = [type(model).__name__]
    return model.eval()


def save(name: str, folder: Path, dtype: str = "float32") -> Path:
    """A family's model and tokenizer as a folder that a recipe can name; gives `folder`."""
    import torch

    from loraplug.testing import tiny_tokenizer

    build(name).to(getattr(torch, dtype)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _draw(name: str, parameter: Any) -> None:
    """Draw a parameter anew, except time constants of state spaces, which must stay in their range."""
    if any(part in name for part in ("A_log", "dt_bias", ".D")) or "conv1d" in name:
        return
    if parameter.ndim >= 2:
        parameter.normal_(0, 0.12)
    elif name.endswith("bias"):
        parameter.normal_(0, 0.05)
    else:  # norms, which begin at one or at zero
        parameter.add_(0.1 * parameter.clone().normal_())
