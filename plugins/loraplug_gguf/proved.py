"""Of which models tests hold that a GGUF file answers in llama.cpp as the model does; of others a certificate tells.

llama.cpp computes many things in one way for a whole family, and reads nothing of them in the file: that the weights of
experts sum to one, that every fourth layer sees all. A config that says otherwise is written all the same, and its file
answers otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from loraplug_gguf.settings import FAMILIES

Config = Mapping[str, Any]
Check = Callable[[Config], Iterator[str]]
CERTIFIED = 'with prove = "always", the exporter gguf writes one and refuses it if its answers differ'


def unproved(config: Config) -> str | None:
    """Why a file of such a model is made only together with a certificate; None where it needs none."""
    kind = config.get("model_type")
    if kind is None or kind in FAMILIES:
        return None
    if kind not in PROVED:
        why = f"GGUF files of {kind} models have not been tested to answer as the model does"
    elif others := list(_others(kind, config)):
        why = f"llama.cpp may compute a {kind} model differently with {', '.join(others)}"
    else:
        return None
    return f"{why}; {CERTIFIED}"


def faults(config: Config) -> Iterator[str]:
    """What the converter is known to write wrongly, whatever is mended here."""
    if config.get("model_type") == "bamba":
        rope = config.get("rope_parameters") or {}
        part = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 0.5))
        if part != 1:
            yield f"llama.cpp's converter reorders the partly rotated heads ({part:g}) of Bamba"


def _only(key: str, taken: Any, default: Any) -> Check:
    """A key that must have the value that llama.cpp takes; `default` is what transformers takes where it lacks."""

    def check(config: Config) -> Iterator[str]:
        found = config.get(key, default)
        if found != taken and not (not found and not taken):
            yield f"{key} = {found!r} (it uses {taken!r})"

    return check


def _no_window(config: Config) -> Iterator[str]:
    """A window as long as the context hides nothing."""
    window, context = config.get("sliding_window"), config.get("max_position_embeddings") or 0
    if window is not None and window < context and config.get("use_sliding_window", True):
        yield f"sliding_window = {window} (it attends to all {context} positions)"


def _every(layers: int) -> Check:
    """Every so many layers one sees all, the others through a window."""

    def check(config: Config) -> Iterator[str]:
        kinds = config.get("layer_types") or ()
        if any((one == "full_attention") != (at % layers == 0) for at, one in enumerate(kinds, 1)):
            yield f"these layer_types (it gives layers {layers}, {2 * layers}, ... full attention)"

    return check


def _four_times(key: str, hidden: str, default: Any) -> Check:
    """A feed-forward of four times the width, which the converter writes without looking."""

    def check(config: Config) -> Iterator[str]:
        found = config.get(key, default)
        if found is not None and found != 4 * config.get(hidden, 0):
            yield f"{key} = {found} (it uses four times {hidden})"

    return check


def _all_heads(config: Config) -> Iterator[str]:
    heads = config.get("num_attention_heads")
    if config.get("num_key_value_heads") not in (None, heads):
        yield f"num_key_value_heads = {config['num_key_value_heads']} (it uses {heads})"


def _head_scale(config: Config) -> Iterator[str]:
    scale, width = config.get("query_pre_attn_scalar", 256), config.get("head_dim", 256)
    if scale != width:
        yield f"query_pre_attn_scalar = {scale} (it uses head_dim, {width})"


def _fourth_without_positions(config: Config) -> Iterator[str]:
    layers = config.get("no_rope_layers") or ()
    if any(bool(one) != (at % 4 != 0) for at, one in enumerate(layers, 1)):
        yield "these no_rope_layers (it takes every fourth to have no positions)"


def _rope(*kinds: str) -> Check:
    """Kinds of rotary positions that a test holds."""

    def check(config: Config) -> Iterator[str]:
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        several = [one for one in rope.values() if isinstance(one, Mapping)] or [rope]
        for one in several:
            kind = one.get("rope_type") or one.get("type") or "default"
            if kind not in ("default", *kinds):
                yield f'rope scaling "{kind}"'

    return check


_PLAIN = _rope()
_ALL_SPARSE = (_only("decoder_sparse_step", 1, 1), _only("mlp_only_layers", [], []))

PROVED: Mapping[str, tuple[Check, ...]] = {
    "cohere2": (_PLAIN, _every(4)),
    "deepseek_v2": (_PLAIN, _only("topk_method", "greedy", "greedy")),
    "deepseek_v3": (_PLAIN,),
    "falcon_h1": (_PLAIN, _only("mamba_rms_norm", False, False)),
    "gemma2": (_PLAIN, _every(2), _head_scale),
    "glm4": (_PLAIN,),
    "glm4_moe": (_PLAIN, _only("use_qk_norm", False, False)),
    "gpt2": (_four_times("n_inner", "n_embd", None), _only("scale_attn_by_inverse_layer_idx", False, False)),
    "gpt_neox": (_PLAIN,),
    "gpt_oss": (_rope("yarn"), _every(2), _only("swiglu_limit", 7.0, 7.0)),
    "granite": (_PLAIN,),
    "granitemoe": (_PLAIN,),
    "granitemoehybrid": (_only("position_embedding_type", None, None),),
    "jamba": (),
    "lfm2": (_PLAIN, _only("conv_bias", False, False)),
    "lfm2_moe": (
        _PLAIN, _only("conv_bias", False, False), _only("norm_topk_prob", True, True),
        _only("use_expert_bias", True, True), _only("routed_scaling_factor", 1.0, 1.0),
    ),
    "mamba": (),
    "mamba2": (),
    "mixtral": (_PLAIN, _no_window),
    "nemotron_h": (),
    "olmo2": (_PLAIN,),
    "olmoe": (_PLAIN, _only("norm_topk_prob", False, False), _only("clip_qkv", None, None), _all_heads),
    "phi": (_PLAIN, _four_times("intermediate_size", "hidden_size", 8192), _all_heads),
    "phi3": (_PLAIN, _no_window),
    "qwen2_moe": (_PLAIN, *_ALL_SPARSE, _only("norm_topk_prob", False, False), _no_window),
    "qwen3_5_moe_text": (_PLAIN,),
    "qwen3_5_text": (_PLAIN,),
    "qwen3_moe": (_PLAIN, *_ALL_SPARSE, _only("norm_topk_prob", True, False), _no_window),
    "qwen3_next": (_PLAIN, *_ALL_SPARSE, _only("norm_topk_prob", True, True)),
    "smollm3": (_PLAIN, _fourth_without_positions, _no_window),
    "starcoder2": (_PLAIN, _no_window),
}  # fmt: skip
"""Families by `model_type`, each with what of its config must be as the test has it."""


def _others(kind: str, config: Config) -> Iterator[str]:
    for check in PROVED[kind]:
        yield from check(config)
