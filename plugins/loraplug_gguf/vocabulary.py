"""What of a tokenizer llama.cpp's converter leaves out, or gets wrong, read from `tokenizer.json`.

The converter knows a byte-level tokenizer by a hash of what it makes of one text, so one with another vocabulary is
unknown to it whatever its splitting expression; the pieces of SentencePiece-like BPE with byte fallback all get one
score where there is no `tokenizer.model`, and are merged in another order then.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import InputError
from loraplug_gguf.converter import read_source
from loraplug_gguf.settings import WAY_OUT

if TYPE_CHECKING:
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


def check_tokenizer(data: Mapping[str, Any], path: Path, converter: tuple[Path, ...]) -> None:
    """Hold what tokenizer.json (at `path`) says against what llama.cpp knows; nothing is run but the tokenizer.

    Raises:
        InputError: llama.cpp has no such tokenizer.
    """
    kind = (data.get("model") or {}).get("type")
    if kind != "BPE" and not path.with_name("tokenizer.model").is_file():
        raise InputError(f"a {kind} tokenizer, which this exporter cannot write to GGUF", where=path, todo=WAY_OUT)
    if kind == "BPE" and not data["model"].get("byte_fallback") and not _known_by_hash(path, converter):
        splitting(data, path)


def _known_by_hash(path: Path, converter: tuple[Path, ...]) -> bool:
    """Whether the converter knows what this tokenizer makes of its text."""
    from tokenizers import Tokenizer

    source = read_source(converter, "conversion/base.py")
    text = re.search(r"^ +chktxt = ('.*')$", source, re.MULTILINE)
    if text is None:
        return True  # a converter of another time: it will say so itself
    ids = Tokenizer.from_file(str(path)).encode(ast.literal_eval(text[1])).ids
    return hashlib.sha256(str(ids).encode()).hexdigest() in source


def splitting(data: Mapping[str, Any], path: Path) -> str:
    """llama.cpp's name for how this tokenizer cuts text into words.

    Raises:
        InputError: it has none.
    """
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
    raise InputError("splits text by rules that llama.cpp does not know", where=f"{path} pre_tokenizer", todo=WAY_OUT)


def write_pieces(writer: Any, folder: Path, size: int) -> None:
    """Say SentencePiece-like BPE with byte fallback, as tokenizer.json has it: a token for each row of the embedding.

    Args:
        writer: a `GGUFWriter` of the converter's.
        size: rows of the embedding.

    Raises:
        ValueError: there are more tokens.
    """
    from gguf import TokenType
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if (most := max(vocabulary.values()) + 1) > size:
        raise ValueError(f"the tokenizer has {most} tokens, but the model only {size} embeddings")
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [int(TokenType.UNUSED)] * size
    for token, number in vocabulary.items():
        is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        tokens[number], types[number] = token, int(TokenType.BYTE if is_byte else TokenType.NORMAL)
    for number, added in tokenizer.added_tokens_decoder.items():
        types[number] = int(TokenType.CONTROL if added.special else TokenType.USER_DEFINED)
        tokens[number] = added.content
    if tokenizer.unk_token_id is not None:
        types[tokenizer.unk_token_id] = int(TokenType.UNKNOWN)
    scores = piece_scores(data)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_scores([scores.get(number, -1e6) for number in range(size)])
    template = tokenizer.chat_template
    if template:
        writer.add_chat_template(template["default"] if isinstance(template, dict) else template)


def piece_scores(data: Mapping[str, Any]) -> dict[int, float]:
    """SentencePiece merges the pair with the best score first, so a piece's score is its merge's rank, negated."""
    vocabulary: Mapping[str, int] = data["model"]["vocab"]
    scores: dict[int, float] = {}
    for rank, pair in enumerate(data["model"]["merges"]):
        token = "".join(pair.split(" ", 1) if isinstance(pair, str) else pair)
        if token in vocabulary:
            scores.setdefault(vocabulary[token], -float(rank))
    return scores


def special_tokens(tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, int]:
    """Ids of the first, last, unknown and padding token and, where another token ends a turn, of that."""
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


def space_prefix(data: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text."""
    normalizer, splitter = data.get("normalizer") or {}, data.get("pre_tokenizer") or {}
    steps = [*normalizer.get("normalizers", [normalizer]), *splitter.get("pretokenizers", [splitter])]
    if any(step.get("type") == "Metaspace" for step in steps):
        return any(step.get("prepend_scheme", "always") != "never" for step in steps if step.get("type") == "Metaspace")
    return any(step.get("type") == "Prepend" for step in steps)
