"""A Hugging Face tokenizer in GGUF's words.

llama.cpp knows two kinds that matter here: `gpt2`, byte-level BPE, which also needs the name of the regular
expression that cuts text before merging; and `llama`, SentencePiece-like BPE with byte fallback, whose pieces have
scores. Both are read from `tokenizer.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import InputError
from loraplug_export.gguf_config import WAY_OUT

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_SPLITS = {
    _LETTERS + r"\p{N}" + _REST: "qwen2",
    _LETTERS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    f"{_CASED}*[\\p{{Ll}}\\p{{Lm}}\\p{{Lo}}\\p{{M}}]+|{_CASED}+[\\p{{Ll}}\\p{{Lm}}\\p{{Lo}}\\p{{M}}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
}
"""The splitting expression of a tokenizer to llama.cpp's name for it."""

WHOLE_WORDS = {"llama-bpe", "tekken"}
"""Those for which llama.cpp takes a word that is itself in the vocabulary without merging."""


@frozen
class Vocabulary:
    """Everything a GGUF file says about a tokenizer.

    Attributes:
        model: "gpt2" or "llama".
        pre: llama.cpp's name of the splitting expression; None for "llama".
        types: a `gguf.TokenType` for each token.
        scores: for "llama" only.
        merges: for "gpt2" only, "left right".
        special: "bos", "eos", "pad", "unk", "eot" to token id.
        begins: whether a text is begun with the first special token, and ended with the last.
        space_prefix: whether a space is put before a text ("llama" only).
    """

    model: str
    pre: str | None
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float]
    merges: Sequence[str]
    special: Mapping[str, int]
    begins: tuple[bool, bool]
    space_prefix: bool | None
    chat_template: str | None

    def write(self, writer: GGUFWriter) -> None:
        """Add the vocabulary's keys to a GGUF header."""
        writer.add_tokenizer_model(self.model)
        if self.pre:
            writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores:
            writer.add_token_scores(self.scores)
        if self.merges:
            writer.add_token_merges(self.merges)
        for name, number in self.special.items():
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.begins[0])
        writer.add_add_eos_token(self.begins[1])
        if self.space_prefix is not None:
            writer.add_add_space_prefix(self.space_prefix)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """Read a model folder's tokenizer; `size` is the number of rows of its embedding.

    Raises:
        InputError: there is no `tokenizer.json`, or llama.cpp has no such tokenizer.
    """
    from transformers import AutoTokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            "no tokenizer.json", where=folder, todo="save the tokenizer with transformers 5 beside the model"
        )
    data = json.loads(path.read_text(encoding="utf-8"))
    check_tokenizer(data, path)
    pieces = bool(data["model"].get("byte_fallback"))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokens, types = _tokens(tokenizer, size, path, pieces)
    merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in data["model"]["merges"]]
    template = tokenizer.chat_template
    return Vocabulary(
        model="llama" if pieces else "gpt2",
        pre=None if pieces else _splitting(data, path),
        tokens=tokens,
        types=types,
        scores=_scores(tokens, merges) if pieces else [],
        merges=[] if pieces else [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in merges],
        special=_special(tokenizer, folder),
        begins=begins(tokenizer),
        space_prefix=_space_prefix(data) if pieces else None,
        chat_template=template.get("default") if isinstance(template, dict) else template,
    )


def check_tokenizer(data: Mapping[str, Any], path: Path) -> None:
    """Hold what tokenizer.json (at `path`) says against what llama.cpp knows.

    Raises:
        InputError: llama.cpp has no such tokenizer.
    """
    if (kind := (data.get("model") or {}).get("type")) != "BPE":
        raise InputError(f"a {kind} tokenizer, which is not written to GGUF here", where=path, todo=WAY_OUT)
    if not data["model"].get("byte_fallback"):
        _splitting(data, path)


def _tokens(tokenizer: PreTrainedTokenizerBase, size: int, path: Path, pieces: bool) -> tuple[list[str], list[int]]:
    from gguf import TokenType

    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if max(vocabulary.values()) >= size:
        raise InputError(
            f"has {max(vocabulary.values()) + 1} tokens, but the model only {size} embeddings",
            where=path,
            todo="export with the tokenizer the model was trained with",
        )
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [int(TokenType.UNUSED)] * size
    for token, number in vocabulary.items():
        tokens[number], types[number] = token, int(TokenType.NORMAL)
        if pieces and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[number] = int(TokenType.BYTE)
    for number, added in tokenizer.added_tokens_decoder.items():
        types[number] = int(TokenType.CONTROL if added.special else TokenType.USER_DEFINED)
        tokens[number] = added.content
    if pieces and tokenizer.unk_token_id is not None:
        types[tokenizer.unk_token_id] = int(TokenType.UNKNOWN)
    return tokens, types


def _splitting(data: Mapping[str, Any], path: Path) -> str:
    """llama.cpp's name for how this tokenizer cuts text into words."""
    top = data.get("pre_tokenizer") or {}
    steps = top.get("pretokenizers", [top])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True) and not steps[0].get("add_prefix_space"):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        expression = (steps[0].get("pattern") or {}).get("Regex")
        name = _SPLITS.get(str(expression))
        whole = bool(data["model"].get("ignore_merges"))
        if name and steps[0].get("behavior") == "Isolated" and whole == (name in WHOLE_WORDS):
            return name
    raise InputError(
        "cuts text into words in a way that has no known name in llama.cpp", where=f"{path} pre_tokenizer", todo=WAY_OUT
    )


def _scores(tokens: Sequence[str], merges: Sequence[Sequence[str]]) -> list[float]:
    """SentencePiece merges the pair with the best score first, so a piece's score is its merge's rank, negated."""
    rank: dict[str, int] = {}
    for number, pair in enumerate(merges):
        rank.setdefault("".join(pair), number)
    return [-float(rank[token]) if token in rank else -1e6 for token in tokens]


def _special(tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, int]:
    found = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    path = folder / "generation_config.json"
    stops = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    others = [number for number in (stops if isinstance(stops, list) else [stops]) if number is not None]
    if others and found["eos"] is None:
        found["eos"] = others[0]
    found["eot"] = next((number for number in others if number != found["eos"]), None)
    return {name: number for name, number in found.items() if number is not None}


def begins(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Whether plain text gets a first and a last special token; asked of the tokenizer itself."""
    ids, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    first = len(ids) > len(bare) and ids[0] == tokenizer.bos_token_id
    last = len(ids) > len(bare) and ids[-1] == tokenizer.eos_token_id
    return first, last


def _space_prefix(data: Mapping[str, Any]) -> bool:
    normalizer, splitter = data.get("normalizer") or {}, data.get("pre_tokenizer") or {}
    steps = [*normalizer.get("normalizers", [normalizer]), *splitter.get("pretokenizers", [splitter])]
    if any(step.get("type") == "Metaspace" for step in steps):
        return any(step.get("prepend_scheme", "always") != "never" for step in steps if step.get("type") == "Metaspace")
    return any(step.get("type") == "Prepend" for step in steps)
