"""Tiny models of the further causal language models in transformers: `make families` tries them all.

Not here: those that see or hear, of which the text models are tried; those that answer in sound or draft for another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from family import VOCABULARY, Family

_SMALL: dict[str, Any] = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "ffn_dim": 128, "dim_ff": 128, "dim_head": 16,
    "embedding_size": 64, "kv_lora_rank": 64, "q_lora_rank": 64, "o_lora_rank": 64, "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16, "v_head_dim": 16, "n_group": 1, "topk_group": 1, "index_topk": 8, "index_head_dim": 32,
    "index_n_heads": 2, "moe_topk": 2, "expert_ffn_hidden_size": 64, "ffn_hidden_size": 128, "zero_expert_num": 2,
    "shared_experts_intermediate_size": 64, "moe_shared_expert_intermediate_size": 64, "shared_intermediate_size": 64,
    "dense_intermediate_size": 128, "num_shared_experts": 1, "num_experts_per_token": 2, "gated_norm_rank": 64,
    "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 16, "sliding_window_size": 8,
    "linear_head_dim": 16, "linear_num_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_num_key_heads": 4, "linear_num_value_heads": 4, "linear_conv_kernel_dim": 4, "first_k_dense_replace": 1,
    "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4, "d_head": 16, "n_layers": 2, "n_heads": 4, "emb_dim": 64, "dim_model_base": 64,
}  # fmt: skip
"""Sizes, by the names that configs have for them."""
_LATENT = {"num_key_value_heads": 4, "head_dim": None}
_LATENT_INDEXED = {**_LATENT, "layer_types": ["indexed_attention"] * 2, "mlp_layer_types": ["dense", "sparse"]}
_LATENT_INDEXED |= {"first_k_dense_replace": None}
_WINDOWED = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_SPARSE = {"mlp_layer_types": ["dense", "sparse"]}
_IDS = {"bos_token_id": 0}


def _small(model_type: str, config: Mapping[str, Any] = {}, experts: bool = False) -> Family:
    return Family(model_type, config, experts, _SMALL)


MORE: dict[str, Family] = {
    one.model_type: one
    for one in (
        _small("afmoe", experts=True),
        _small("apertus"),
        _small("apertus1p5_text"),
        _small("arcee"),
        _small(
            "aria_text",
            {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1, "intermediate_size": 64},
            experts=True,
        ),
        _small("axk1", {**_LATENT, **_SPARSE}, experts=True),
        _small("axk2", {**_LATENT, **_SPARSE, "layer_types": ["indexed_attention"] * 2}, experts=True),
        _small("bailing_hybrid", experts=True),
        _small("bart"),
        _small("beam", experts=True),
        _small("bert", {"is_decoder": True}),
        _small("bert-generation", {"is_decoder": True}),
        _small("big_bird", {"is_decoder": True, "attention_type": "original_full"}),
        _small("bigbird_pegasus", {"attention_type": "original_full"}),
        _small("biogpt"),
        _small("bitnet"),
        _small("blenderbot"),
        _small("blenderbot-small"),
        _small("bloom", {"n_layer": 2, "n_head": 4}),
        _small("camembert", {"is_decoder": True}),
        _small(
            "codegen", {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 16, "n_positions": 512, "n_ctx": 512}
        ),
        _small("cohere"),
        _small("cohere2_moe", experts=True),
        _small(
            "cohere_compass_text",
            {
                **_WINDOWED,
                "rope_parameters": {
                    k: {"rope_type": "default", "rope_theta": 1e4} for k in ("sliding_attention", "full_attention")
                },
            },
        ),
        _small("cpmant"),
        _small("ctrl", {"n_embd": 64, "n_layer": 2, "n_head": 4, "dff": 128, "n_positions": 512}),
        _small("cwm", {**_WINDOWED, **_IDS}),
        _small("data2vec-text", {"is_decoder": True}),
        _small(
            "dbrx",
            {
                "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
                "ffn_config": {"ffn_hidden_size": 64, "hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
            },
        ),
        _small("deepseek_v32", _LATENT_INDEXED, experts=True),
        _small("diffllama"),
        _small("doge"),
        _small("dory"),
        _small("dots1", {"first_k_dense_replace": 1}, experts=True),
        _small(
            "dots3_note_text",
            {
                **_LATENT,
                "layer_types": ["sliding_attention", "indexed_attention"],
                "sliding_window": 8,
                "mlp_layer_types": ["dense", "sparse"],
                "per_layer_config": {},
                "head_dim": 32,
            },
            experts=True,
        ),
        _small("electra", {"is_decoder": True}),
        _small("ernie", {"is_decoder": True}),
        _small("ernie4_5"),
        _small("ernie4_5_moe", {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1}, experts=True),
        _small("exaone"),
        _small("exaone4", _WINDOWED),
        _small("exaone_moe", experts=True),
        _small("falcon", {"new_decoder_architecture": False}),
        _small("falcon_mamba", {"state_size": 16, "time_step_rank": 64, "head_dim": None}),
        _small("flex_olmo", experts=True),
        _small("flint"),
        _small("gemma"),
        _small(
            "gemma4_text",
            {
                **_WINDOWED,
                "hidden_size_per_layer_input": 64,
                "vocab_size_per_layer_input": VOCABULARY,
                "per_layer_config": {},
            },
        ),
        _small("gemma4_unified_text", _WINDOWED),
        _small(
            "git",
            {
                "vision_config": {
                    "hidden_size": 64,
                    "intermediate_size": 128,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "image_size": 28,
                    "patch_size": 14,
                }
            },
        ),
        _small("glm", {"pad_token_id": 0}),
        _small("glm4_moe_lite", {**_LATENT, **_SPARSE}, experts=True),
        _small("glm_moe_dsa", {**_LATENT_INDEXED, "indexer_types": ["full", "shared"]}, experts=True),
        _small("gpt-sw3", {"n_inner": 128, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}),
        _small("gpt_bigcode", {"n_inner": 128, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}),
        _small(
            "gpt_neo",
            {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8},
        ),
        _small("gpt_neox_japanese"),
        _small("gptj", {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 16, "n_positions": 512}),
        _small("granite_swa"),
        _small("granitemoe_swa", experts=True),
        _small("granitemoeshared", {"shared_intermediate_size": 64}, experts=True),
        _small("helium"),
        _small("hrm_text"),
        _small("hunyuan_v1_dense"),
        _small("hunyuan_v1_moe", {"moe_topk": 2}, experts=True),
        _small("hy_v3", experts=True),
        _small("hy_v4", {**_LATENT_INDEXED, "head_dim": 16, "indexer_types": ["full", "shared"]}, experts=True),
        _small("hyperclovax"),
        _small(
            "inkling2_loop_text",
            {
                "num_hidden_layers": 3,
                "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding"],
                "unpadded_vocab_size": VOCABULARY,
                "d_rel": 16,
                "rel_extent": 64,
                "loop_layer_index_start": 1,
                "loop_layer_index_end": 2,
                "loop_num_passes": 2,
                "loop_gate_rank": 64,
                "n_layers_per_attn_res_block": 1,
            },
            experts=True,
        ),
        _small(
            "inkling2_text",
            {
                "layer_types": ["hybrid_sliding", "hybrid"],
                "unpadded_vocab_size": VOCABULARY,
                "d_rel": 16,
                "rel_extent": 64,
                "n_layers_per_attn_res_block": 1,
            },
            experts=True,
        ),
        _small(
            "inkling_text",
            {
                "layer_types": ["hybrid_sliding", "hybrid"],
                "d_rel": 16,
                "rel_extent": 64,
                "mlp_layer_types": ["dense", "sparse"],
                "n_shared_experts": 1,
            },
            experts=True,
        ),
        _small("internlm3"),
        _small("iquestcoder"),
        _small("jais2"),
        _small("jetmoe", {"kv_channels": 16}, experts=True),
        _small(
            "kimi_linear",
            {**_LATENT, "layer_types": ["linear_attention", "full_attention"], **_SPARSE, "linear_head_dim": 64},
            experts=True,
        ),
        _small("kolibri1", _WINDOWED, experts=True),
        _small("laguna", experts=True),
        _small(
            "lara_mini",
            {
                "layer_types": ["linear_attention", "sliding_attention", "full_attention"],
                "num_hidden_layers": 3,
                "sliding_window": 8,
            },
            experts=True,
        ),
        _small("lfm3"),
        _small("longcat_flash", {**_LATENT, "head_dim": 16, "num_layers": 2, "num_hidden_layers": None}, experts=True),
        _small("marian", {"decoder_vocab_size": None}),
        _small("mbart"),
        _small("megatron-bert", {"is_decoder": True}),
        _small("mellum", experts=True),
        _small("mimo_v2_flash", experts=True),
        _small("minicpm3", _LATENT),
        _small("minimax", {"layer_types": ["linear_attention", "full_attention"], "block_size": 8}, experts=True),
        _small("minimax_m2", experts=True),
        _small(
            "minimax_m3_vl_text",
            {"mlp_layer_types": ["dense", "sparse"], "layer_types": ["full_attention"] * 2, "rotary_dim": 16},
            experts=True,
        ),
        _small("ministral", _WINDOWED),
        _small("ministral3", {"sliding_window": 256}),
        _small("modernbert-decoder", {**_WINDOWED, **_IDS}),
        _small("moshi", {"ffn_dim": 256, "hidden_act": "silu"}),
        _small("mpt"),
        _small("mvp"),
        _small("nanochat"),
        _small("nemotron"),
        _small("olmo"),
        _small("olmo3", _WINDOWED),
        _small("olmo_hybrid", {"num_hidden_layers": 4}),
        _small("openai-gpt", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}),
        _small("pegasus"),
        _small("persimmon"),
        _small(
            "phi4_multimodal",
            {
                "vision_config": {
                    "hidden_size": 64,
                    "intermediate_size": 128,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "image_size": 28,
                    "patch_size": 14,
                    "crop_size": 28,
                },
                "audio_config": {
                    "hidden_size": 64,
                    "intermediate_size": 128,
                    "num_blocks": 1,
                    "num_attention_heads": 4,
                    "ext_pw_out_channel": 64,
                    "nemo_conv_channels": 32,
                    "input_size": 16,
                    "nemo_activation": "relu",
                },
                "original_max_position_embeddings": 512,
            },
        ),
        _small("plbart"),
        _small("prophetnet"),
        _small(
            "qwen4_exp_text",
            {
                "num_hidden_layers": 4,
                "hc_count": 2,
                "hc_lowrank": 64,
                "ple_embed_dim": 64,
                "indexer_n_heads": 2,
                "indexer_kv_heads": 1,
                "indexer_head_dim": 16,
                "indexer_budget": 8,
                "indexer_compress_ratio": 4,
                "output_gate_type": "sigmoid",
            },
            experts=True,
        ),
        _small("recurrent_gemma", {"num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 8}),
        _small(
            "reformer",
            {
                "is_decoder": True,
                "attn_layers": ["local", "local"],
                "axial_pos_shape": [16, 32],
                "axial_pos_embds_dim": [16, 48],
                "feed_forward_size": 128,
                "local_attn_chunk_length": 8,
                "attention_head_size": 16,
            },
        ),
        _small("rembert", {"is_decoder": True, "input_embedding_size": 64, "output_embedding_size": 64}),
        _small("roberta", {"is_decoder": True}),
        _small("roberta-prelayernorm", {"is_decoder": True}),
        _small(
            "roc_bert",
            {
                "is_decoder": True,
                "pronunciation_vocab_size": 8,
                "shape_vocab_size": 8,
                "pronunciation_embed_dim": 16,
                "shape_embed_dim": 16,
            },
        ),
        _small("roformer", {"is_decoder": True}),
        _small("sarvam_mla", _LATENT, experts=True),
        _small("sarvam_moe", {"first_k_dense_replace": 1}, experts=True),
        _small("seed_oss"),
        _small("solar_open", experts=True),
        _small("stablelm"),
        _small("trocr"),
        _small("vaultgemma", _WINDOWED),
        _small("whisper"),
        _small("xglm", {"attention_heads": 4, "num_layers": 2}),
        _small("xlm", {"n_langs": 1, "causal": True}),
        _small("xlm-roberta", {"is_decoder": True}),
        _small("xlm-roberta-xl", {"is_decoder": True}),
        _small("xlnet", {"n_layer": 2, "n_head": 4, "d_inner": 128}),
        _small("xmod", {"is_decoder": True, "default_language": "en_XX"}),
        _small("youtu", _LATENT),
        _small(
            "zamba",
            {
                "num_hidden_layers": 4,
                "layer_types": ["mamba", "hybrid", "mamba", "hybrid"],
                "mamba_d_state": 16,
                "n_mamba_heads": 2,
                "mamba_dt_rank": 64,
                "use_mamba_kernels": False,
                "head_dim": None,
            },
        ),
    )
}
