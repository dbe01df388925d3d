"""Which format each tensor of a file gets: llama.cpp's mixtures, where what suffers most gets more bits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import frozen

from loraplug_gguf.choices import TypeName

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

_MAIN: Mapping[str, str] = {
    "q2_k_s": "Q2_K", "q3_k_s": "Q3_K", "q3_k_m": "Q3_K", "q3_k_l": "Q3_K", "q4_k_s": "Q4_K", "q4_k_m": "Q4_K",
    "q5_k_s": "Q5_K", "q5_k_m": "Q5_K", "iq2_s": "IQ2_XS", "iq2_m": "IQ2_S", "iq3_xs": "IQ3_S", "iq3_m": "IQ3_S",
    "mxfp4_moe": "MXFP4",
}  # fmt: skip
"""The format of most tensors, where it is not the file type's own name."""
_LOW = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m")
_FINER = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
"""What takes over where a row is no multiple of 256 values; IQ formats give way to IQ4_NL."""
_KEPT = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d", "shortconv.conv.weight", "altup", "laurel",
         "per_layer_model_proj", "attn_rel_b.weight", "time_mix_first.weight", "position_embd")  # fmt: skip
"""Parts of names of matrices that are small, or must be exact."""


@frozen
class ModelFacts:
    """What of a model decides its mixture.

    Attributes:
        arch: GGUF's name of the architecture.
        layers: how many.
        shared: attention heads to one key-value head.
        experts: 0 where there are none.
        tied: the embedding is the output matrix, too.
        measured: there is an importance matrix.
    """

    arch: str
    layers: int
    shared: int
    experts: int
    tied: bool
    measured: bool


def quantised(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is quantised at all; others stay as the converter has written them."""
    return len(shape) >= 2 and name.endswith("weight") and not any(part in name for part in _KEPT)


def tensor_type(wanted: TypeName, name: str, shape: tuple[int, ...], facts: ModelFacts) -> GGMLQuantizationType:
    """The format of one tensor that is quantised.

    Args:
        name: GGUF's name of the tensor.
        shape: its last entry is the length of a row.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    main = _MAIN.get(wanted, wanted.upper())
    found = _chosen(wanted, main, name, shape, facts)
    if shape[-1] % GGML_QUANT_SIZES[GGMLQuantizationType[found]][0]:
        found = _FINER.get(found, "IQ4_NL" if found.startswith("IQ") else "F16")
        if found != "F16" and shape[-1] % GGML_QUANT_SIZES[GGMLQuantizationType[found]][0]:
            found = "F16"
    return GGMLQuantizationType[found]


def _chosen(wanted: str, main: str, name: str, shape: tuple[int, ...], facts: ModelFacts) -> str:
    if name == "output.weight" or (facts.tied and name == "token_embd.weight"):
        return _output(wanted, main, shape, facts)
    if wanted == "mxfp4_moe":
        return "MXFP4" if len(shape) == 3 else "Q8_0"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return _embedding(wanted, main)
    layer = int(found[1]) if (found := re.match(r"blk\.(\d+)\.", name)) else 0
    if re.search(r"attn_(v|qkv|kv_b)\.weight", name):
        return _values(wanted, main, layer, facts)
    if "ffn_down" in name:
        return _down(wanted, main, layer, facts)
    if "attn_output.weight" in name:
        return _attention_output(wanted, main, facts)
    if re.search(r"attn_[qk]\.weight", name):
        if facts.experts == 8 and "attn_k" in name and wanted != "iq1_s":
            return "Q4_K" if wanted in _LOW else "Q8_0"
        return {"iq3_xs": "IQ3_XXS", "iq3_xxs": "IQ2_S"}.get(wanted, main)
    middle = facts.layers // 8 <= layer < 7 * facts.layers // 8
    return "IQ3_XXS" if wanted == "iq3_xs" and middle and re.search("ffn_(gate|up)", name) else main


def _output(wanted: str, main: str, shape: tuple[int, ...], facts: ModelFacts) -> str:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if wanted == "mxfp4_moe" or facts.arch == "falcon":
        return "Q8_0"
    if shape[-1] % GGML_QUANT_SIZES[GGMLQuantizationType[main]][0]:
        return "Q8_0"
    if wanted in _LOW or wanted == "iq3_xxs":
        return "Q5_K"
    return "Q8_0" if main == "Q8_0" else "Q6_K"


def _embedding(wanted: str, main: str) -> str:
    if wanted in ("iq2_xxs", "iq2_xs", "iq1_s", "iq1_m"):
        return "Q2_K"
    if wanted in ("iq2_s", "iq2_m", "iq3_xxs"):
        return "IQ3_S"
    return "Q4_K" if wanted in ("tq1_0", "tq2_0") else main


def _more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _values(wanted: str, main: str, layer: int, facts: ModelFacts) -> str:
    many = facts.shared >= 4
    if wanted in _LOW:
        if many or facts.experts >= 4:
            return "Q4_K"
        return "IQ3_S" if wanted in ("iq2_s", "iq2_m") else "Q2_K"
    if facts.experts == 8:
        return "Q8_0"
    more = _more_bits(layer, facts.layers)
    found = {
        "q2_k": "Q4_K" if many else "Q3_K",
        "q2_k_s": "Q4_K" if many else main,
        "iq3_xxs": "Q4_K" if many else "IQ3_XXS" if facts.measured else "IQ3_S",
        "iq3_xs": "Q4_K" if many else main,
        "iq3_s": "Q4_K" if many else main,
        "iq3_m": "Q4_K",
        "q3_k_m": "Q5_K" if layer < 2 else "Q4_K",
        "q3_k_l": "Q5_K",
        "iq4_nl": "Q5_K" if many else main,
        "iq4_xs": "Q5_K" if many else main,
        "q4_k_m": "Q6_K" if more else main,
        "q5_k_m": "Q6_K" if more else main,
        "q4_k_s": "Q5_K" if layer < 4 else main,
    }.get(wanted, main)
    if facts.layers == 80 and facts.shared == 8 and found in ("Q3_K", "Q4_K"):  # of 70 billion: these are small there
        return "Q5_K"
    return found


def _down(wanted: str, main: str, layer: int, facts: ModelFacts) -> str:
    first = layer < facts.layers // 8
    more = _more_bits(layer, facts.layers)
    if wanted in _LOW:
        return ("IQ3_S" if wanted in ("iq2_s", "iq2_m") else "Q2_K") if first else main
    if facts.arch == "falcon":
        return {"q3_k_l": "Q4_K", "q4_k_m": "Q5_K" if more else main}.get(wanted, main)
    if wanted == "iq3_xxs" and not facts.measured:
        return "Q4_K" if first else "Q3_K"
    if wanted in ("iq4_nl", "iq4_xs") and not facts.measured:
        return "Q5_K" if first else main
    if wanted in ("q4_0", "q5_0") and facts.measured:
        return f"{main[:-1]}1" if first else main
    return {
        "q2_k": "Q3_K",
        "q2_k_s": "Q4_K" if first else main,
        "q3_k_m": "Q5_K" if layer < facts.layers // 16 else "Q4_K",
        "q3_k_l": "Q5_K",
        "iq3_m": "Q4_K" if first or (facts.experts == 8 and more) else main,
        "q4_k_m": "Q6_K" if more else main,
        "q5_k_m": "Q6_K" if more else main,
        "q4_k_s": "Q5_K" if first else main,
    }.get(wanted, main)


def _attention_output(wanted: str, main: str, facts: ModelFacts) -> str:
    if facts.experts == 8:
        fine = ("q8_0", "q6_k", "q5_k_s", "q5_k_m", "q4_0", "q4_1", "q5_0", "q5_1", "tq1_0", "tq2_0", "q3_k_l")
        return main if wanted in fine else "Q5_K"
    if wanted in _LOW:
        return {"iq1_s": "IQ2_XXS", "iq1_m": "IQ2_XXS", "iq2_s": "IQ3_S", "iq2_m": "IQ3_S"}.get(wanted, main)
    more = {"q2_k": "Q3_K", "iq3_xxs": "IQ3_S", "q3_k_m": "Q4_K", "q3_k_l": "Q5_K", "iq3_m": "Q4_K"}
    return main if facts.arch == "falcon" else more.get(wanted, main)
