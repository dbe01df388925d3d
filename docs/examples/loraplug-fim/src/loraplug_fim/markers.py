"""What models mark the parts of a text with a hole with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FAMILIES: dict[str, tuple[str, ...]] = {
    "Qwen2.5-Coder, CodeGemma, Granite": ("<|fim_prefix|>", "BEFORE", "<|fim_suffix|>", "AFTER", "<|fim_middle|>"),
    "StarCoder": ("<fim_prefix>", "BEFORE", "<fim_suffix>", "AFTER", "<fim_middle>"),
    "SantaCoder": ("<fim-prefix>", "BEFORE", "<fim-suffix>", "AFTER", "<fim-middle>"),
    "DeepSeek-Coder": ("<｜fim▁begin｜>", "BEFORE", "<｜fim▁hole｜>", "AFTER", "<｜fim▁end｜>"),  # noqa: RUF001 - its own
    "Code Llama": ("▁<PRE>", "BEFORE", "▁<SUF>", "AFTER", "▁<MID>"),
    "Codestral": ("[SUFFIX]", "AFTER", "[PREFIX]", "BEFORE"),
}
"""The order each family of models was trained with: control tokens, and where the two sides of the hole go."""

PLAIN = ("[before]\n", "BEFORE", "\n[after]\n", "AFTER", "\n[middle]\n")
_SIDES = ("BEFORE", "AFTER")


@frozen
class Markers:
    """The tokens around both sides of a hole: pieces of token ids, and "BEFORE" and "AFTER" between them."""

    pieces: tuple[str | tuple[int, ...], ...]
    shown: str

    @property
    def length(self) -> int:
        """Tokens of the markers alone."""
        return sum(len(piece) for piece in self.pieces if not isinstance(piece, str))

    def prompt(self, before: list[int], after: list[int]) -> list[int]:
        """All that stands before the middle."""
        sides = {"BEFORE": before, "AFTER": after}
        return [id_ for piece in self.pieces for id_ in (sides[piece] if isinstance(piece, str) else piece)]

    @classmethod
    def plain(cls, tokenizer: PreTrainedTokenizerBase) -> Markers:
        """Markers of plain text, for models that know none."""
        pieces = [
            piece if piece in _SIDES else tuple(tokenizer(piece, add_special_tokens=False)["input_ids"])
            for piece in PLAIN
        ]
        return cls(tuple(pieces), "".join(PLAIN).replace("\n", "\\n"))


def markers_of(tokenizer: PreTrainedTokenizerBase) -> Markers | None:
    """The markers a model was trained with, told by the control tokens that it has; None where it has none."""
    known = tokenizer.get_vocab()
    for words in FAMILIES.values():
        if all(word in known for word in words if word not in _SIDES):
            pieces = tuple(word if word in _SIDES else (known[word],) for word in words)
            return Markers(pieces, "".join(words))
    return None
