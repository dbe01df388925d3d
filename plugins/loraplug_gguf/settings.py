"""What a model's config says that llama.cpp would not heed: told before any work, by config.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

WAY_OUT = "export merged in its place; LORAPLUG_CONVERTER names a checkout of llama.cpp, if a newer one takes it"

GEMMA3 = ("gemma3_text", "gemma3")
"""Gemma 3's models of text alone; a GGUF file of one calls itself by the second name."""
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", *GEMMA3)
"""transformers' `model_type` of those whose settings are judged; of others the certificate alone tells."""

CARRIED = frozenset(
    {
        "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
        "rope_parameters", "rope_scaling", "rope_theta", "hidden_act", "sliding_window", "use_sliding_window",
        "max_window_layers", "layer_types", "partial_rotary_factor", "attention_bias", "mlp_bias",
    }
)  # fmt: skip
"""Keys that are written, or that are judged below."""

BESIDE = frozenset(
    {
        "architectures", "auto_map", "transformers_version", "dtype", "torch_dtype", "use_cache", "return_dict",
        "output_hidden_states", "output_attentions", "chunk_size_feed_forward", "is_encoder_decoder", "id2label",
        "label2id", "problem_type", "initializer_range", "attention_dropout", "pretraining_tp", "pad_token_id",
        "bos_token_id", "eos_token_id", "unk_token_id", "is_llama_config", "transformers.js_config", "tokenizer_class",
        "task_specific_params", "finetuning_task", "prefix", "gradient_checkpointing", "max_length",
    }
)  # fmt: skip
"""Keys that do not change what the model computes; those that begin with `_` or `unsloth_` are not looked at either."""

_DEFAULTS = {"mistral": {"sliding_window": 4096}}
"""What transformers takes where config.json lacks a key, if it is not nothing."""

_ROPE = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "yarn": frozenset(
        {
            "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "truncate",
            "mscale", "mscale_all_dim",
        }
    ),
}  # fmt: skip
"""Kinds of rotary scaling, and the keys of each that are written."""


def carried(config: Mapping[str, Any]) -> list[str]:
    """What in a config a GGUF file of it would leave out, or could not say; empty where it says all.

    Args:
        config: config.json as it stands, or a transformers config's `to_dict()`.
    """
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        return []
    if family in GEMMA3:
        return [*_unknown({key: value for key, value in config.items() if key not in OF_GEMMA3}), *_gemma3(config)]
    config = _DEFAULTS.get(family, {}) | dict(config)
    return [*_unknown(config), *_windows(config), *_rotary(config), *_others(config)]


OF_GEMMA3 = frozenset(
    {
        "hidden_activation", "query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping",
        "use_bidirectional_attention", "sliding_window_pattern", "rope_local_base_freq", "attention_bias",
    }
)  # fmt: skip
"""Keys of that family which are judged by `_gemma3`."""
_PATTERN = 6  # every sixth layer of Gemma 3 sees all, by llama.cpp itself
_LOCAL_BASE = 10000.0  # of the rotary positions of its other layers, by llama.cpp itself


def _gemma3(config: Mapping[str, Any]) -> Iterator[str]:
    """What of Gemma 3's settings llama.cpp takes to be otherwise, and has no key for."""
    fixed = {"attention_bias": False, "final_logit_softcapping": None, "attn_logit_softcapping": None,
             "use_bidirectional_attention": False, "hidden_activation": "gelu_pytorch_tanh",
             "query_pre_attn_scalar": config.get("head_dim"), "rope_local_base_freq": _LOCAL_BASE}  # fmt: skip
    for key, value in fixed.items():
        if config.get(key) not in (None, value):
            yield f"{key} = {config[key]!r} is ignored by llama.cpp, which always uses {value!r} for this family"
    layers = config.get("layer_types") or ()
    if any((kind == "full_attention") != (at % _PATTERN == 0) for at, kind in enumerate(layers, 1)):
        yield f"layer_types is ignored by llama.cpp, which gives every {_PATTERN}th layer full attention"
    ropes = {"full_attention": full_rope(config), "sliding_attention": _sliding_rope(config)}
    for kind, rope in ropes.items():
        if (rope.get("rope_type") or "default") != "default":
            yield f'rope scaling "{rope["rope_type"]}" of {kind} is not written in this family'
    if ropes["sliding_attention"].get("rope_theta", _LOCAL_BASE) != _LOCAL_BASE:
        yield f"rope_theta of sliding_attention is ignored by llama.cpp, which uses {_LOCAL_BASE:,.0f}"


def full_rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rotary settings of layers that see all, where layers differ; else those of every layer."""
    rope: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    full: Mapping[str, Any] = rope.get("full_attention", {} if "sliding_attention" in rope else rope)
    return full


def _sliding_rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return (config.get("rope_parameters") or {}).get("sliding_attention") or {}


def _unknown(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        if key in CARRIED or key in BESIDE or key.startswith(("_", "unsloth_")):
            continue
        if value not in (None, False, 0, "", [], {}):
            shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}..."
            yield f"{key} = {shown} cannot be stored in a GGUF file of a {config['model_type']} model"


def _windows(config: Mapping[str, Any]) -> Iterator[str]:
    """A window as long as the context hides nothing."""
    window, context = config.get("sliding_window"), config.get("max_position_embeddings") or 0
    if config["model_type"] != "mistral" and not config.get("use_sliding_window"):
        window = None
    if window is not None and config["model_type"] != "mistral" and not config.get("layer_types"):
        full = config.get("max_window_layers")  # the layers from this one on have the window
        if full is not None and full >= (config.get("num_hidden_layers") or 0):
            window = None
    layers = set(config.get("layer_types") or ()) - {"full_attention"}
    if other := sorted(layers - {"sliding_attention"}):
        yield f"layers of type {', '.join(other)} cannot be stored"
    if config.get("layer_types") and not layers:
        return
    if window is not None and window < context:
        yield f"sliding_window = {window} would be lost: llama.cpp would attend to all {context} positions"


def _rotary(config: Mapping[str, Any]) -> Iterator[str]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if any(isinstance(value, Mapping) for value in rope.values()):
        yield "rotary embeddings that differ by layer are not written"
        return
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in _ROPE:
        yield f'rope scaling "{kind}" is not written'
        return
    if kind in ("linear", "llama3") and (missing := sorted(_ROPE[kind] - rope.keys())):
        yield f'rope scaling "{kind}" lacks {", ".join(missing)}'
    known = _ROPE[kind] | {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    for key in sorted(rope.keys() - known):
        if rope[key] not in (None, False):
            yield f'{key} = {rope[key]!r} of rope scaling "{kind}" is not written'
    ramp = (rope.get("beta_fast") or 32, rope.get("beta_slow") or 1, rope.get("truncate", True))
    if kind == "yarn" and ramp != (32, 1, True):  # llama.cpp does not heed the file's ramp in these families
        yield "YaRN with a ramp of its own is not written"
    if any((part.get("partial_rotary_factor") or 1.0) != 1.0 for part in (rope, config)):
        yield "partly rotated heads are not written"


def _others(config: Mapping[str, Any]) -> Iterator[str]:
    act = config.get("hidden_act") or "silu"
    if act not in ("silu", "swish"):
        yield f'hidden_act = "{act}" is not written: llama.cpp computes silu in this family'
    if config["model_type"] == "qwen3" and config.get("attention_bias"):
        yield "attention_bias is not written: llama.cpp has no biases in this family"
