"""The words that options take. On their own, so that listing the exporters need not load what carries them out."""

from typing import Literal, get_args

ConvertedName = Literal["f32", "f16", "bf16", "q8_0"]
"""Written by llama.cpp's converter itself."""
TypeName = Literal[
    "f32", "f16", "bf16", "q8_0",
    "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k", "q2_k_s",
    "q5_1", "q5_0", "q4_1", "q4_0",
    "iq4_nl", "iq4_xs", "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s",
    "tq2_0", "tq1_0", "mxfp4_moe",
]  # fmt: skip
"""llama.cpp's names of file types, in small letters."""
CONVERTED: tuple[ConvertedName, ...] = get_args(ConvertedName)

_BITS: dict[str, float] = {
    "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q6_k": 6.6, "q5_k_m": 5.7, "q5_k_s": 5.6, "q4_k_m": 5.0,
    "q4_k_s": 4.7, "q3_k_l": 4.4, "q3_k_m": 4.0, "q3_k_s": 3.6, "q2_k": 3.4, "q2_k_s": 3.0, "q5_1": 6.0, "q5_0": 5.6,
    "q4_1": 5.1, "q4_0": 4.7, "iq4_nl": 4.7, "iq4_xs": 4.5, "mxfp4_moe": 4.6,
}  # fmt: skip


def bits(kind: TypeName) -> float:
    """About how many a weight takes in a file of this type, for an estimate of its size."""
    return _BITS.get(kind, 4.0)
