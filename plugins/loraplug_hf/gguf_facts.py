"""Reads the header of a GGUF file without loading the file.

`gguf.GGUFReader` makes an object of every token, which takes seconds for large vocabularies; here lists are skipped.
Supports GGUF version 2 and 3.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from loraplug import BaseFacts, InputError

_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _LIST = 8, 9
_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16",
}  # fmt: skip
"""`gguf.GGMLQuantizationType`, the usual ones, copied, as that package imports numpy."""
_KEPT = ("tokens", "token_type")
_WHOLE = (3, 4)  # `gguf.TokenType`: CONTROL and USER_DEFINED
_CONFIG = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "vocab_size": "vocab_size",
}
"""Keys of the header (after the architecture's name) and their names in config.json."""


def read_gguf(path: Path) -> BaseFacts:
    """The header's keys; lists are given by their length, except for the tokens and their types.

    Raises:
        InputError: it is not a GGUF file, or truncated.
    """
    todo = "the file may be incomplete: copy or download it again"
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF" or _number(file, "<I") not in (2, 3):
                raise InputError("is not a GGUF file of version 2 or 3", where=path, todo="give another file")
            tensors, entries = _number(file, "<Q"), _number(file, "<Q")
            header = dict(_entry(file) for _ in range(entries))
            weights, end = {}, 0
            for _ in range(tensors):
                name = _text(file)
                shape = tuple(reversed([_number(file, "<Q") for _ in range(_number(file, "<I"))]))
                number, begin = _number(file, "<I"), _number(file, "<Q")
                end = max(end, begin)
                weights[name] = (_TYPES.get(number, f"GGML-{number}"), shape)
            begun = file.tell()
    except (struct.error, UnicodeDecodeError, ValueError, KeyError, OSError, OverflowError, MemoryError) as error:
        raise InputError(f"cannot be read as GGUF ({error})", where=path, todo=todo) from None
    if (size := path.stat().st_size) <= begun + end:
        raise InputError(f"is truncated at {size:,} bytes: weights are missing", where=path, todo=todo)
    family = str(header.get("general.architecture", ""))
    tokens, types = (header.get(f"tokenizer.ggml.{key}") for key in _KEPT)
    vocabulary = None if tokens is None else len(tokens)
    whole = None
    if isinstance(tokens, list) and isinstance(types, tuple) and len(types) == len(tokens):
        whole = frozenset(token for token, kind in zip(tokens, types, strict=True) if kind in _WHOLE)
    config = {"model_type": family, "vocab_size": vocabulary}
    config |= {ours: header[f"{family}.{key}"] for key, ours in _CONFIG.items() if f"{family}.{key}" in header}
    template = header.get("tokenizer.chat_template")
    return BaseFacts(path.parent, config, weights, vocabulary, template, True, whole)


def _number(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _text(file: BinaryIO) -> str:
    length = _number(file, "<Q")
    text = file.read(length)
    if len(text) != length:
        raise ValueError("a string is truncated")
    return text.decode()


def _entry(file: BinaryIO) -> tuple[str, Any]:
    name = _text(file)
    return name, _value(file, _number(file, "<I"), name.removeprefix("tokenizer.ggml.") in _KEPT)


def _value(file: BinaryIO, kind: int, kept: bool = False) -> Any:
    if kind == _TEXT:
        return _text(file)
    if kind != _LIST:
        return _number(file, _FORMATS[kind])
    inner, count = _number(file, "<I"), _number(file, "<Q")
    if kept and inner == _TEXT:
        return [_text(file) for _ in range(count)]
    if kept and inner in _FORMATS:
        form = f"<{count}{_FORMATS[inner][1]}"
        return struct.unpack(form, file.read(struct.calcsize(form)))
    if inner == _TEXT:
        for _ in range(count):
            file.seek(_number(file, "<Q"), 1)
    elif inner == _LIST:
        for _ in range(count):
            _value(file, inner)
    else:
        file.seek(count * struct.calcsize(_FORMATS[inner]), 1)
    return count
