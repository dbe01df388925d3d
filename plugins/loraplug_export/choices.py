"""The words that options take. On their own, so that listing the exporters need not load what carries them out."""

from typing import Literal

OntoName = Literal["original", "dequantized"]
TypeName = Literal["f16", "bf16", "q8_0", "q4_k_m"]
