"""The values of some options; in a module of their own, so that listing exporters imports nothing heavy."""

from typing import Literal

OntoName = Literal["original", "dequantized"]
