"""The words that options take. On their own, so that listing the exporters need not load what carries them out."""

from typing import Literal

OntoName = Literal["original", "dequantized"]
