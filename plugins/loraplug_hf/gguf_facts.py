"""What the header of a GGUF file says, read without loading the file.

`gguf.GGUFReader` makes an object of every token, which takes seconds for the vocabularies of today; here lists are
counted and passed over. The layout is that of the GGUF specification, version 2 and 3.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from loraplug import BaseFacts, InputError

_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _LIST = 8, 9
_CONFIG = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "vocab_size": "vocab_size",
}
"""Keys of the header, behind the architecture's name, in the words of config.json."""


def read_gguf(path: Path) -> BaseFacts:
    """What the header tells; a list stands in it as its length.

    Raises:
        InputError: it is no GGUF file, or ends too early.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    todo = "copy or download it again"
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
                kind, begin = GGMLQuantizationType(_number(file, "<I")), _number(file, "<Q")
                block, size = GGML_QUANT_SIZES[kind]
                count = 1
                for length in shape:
                    count *= length
                end = max(end, begin + count // block * size)
                weights[name] = (kind.name, shape)
            begun = file.tell()
    except (struct.error, UnicodeDecodeError, ValueError, KeyError, OSError, OverflowError, MemoryError) as error:
        raise InputError(f"cannot be read as GGUF ({error})", where=path, todo=todo) from None
    if path.stat().st_size < begun + end:
        raise InputError(f"ends too early: {path.stat().st_size:,} bytes of {begun + end:,}", where=path, todo=todo)
    family = str(header.get("general.architecture", ""))
    config = {"model_type": family, "vocab_size": header.get("tokenizer.ggml.tokens")}
    config |= {ours: header[f"{family}.{key}"] for key, ours in _CONFIG.items() if f"{family}.{key}" in header}
    template = header.get("tokenizer.chat_template")
    vocabulary = header.get("tokenizer.ggml.tokens")
    return BaseFacts(path.parent, config, weights, vocabulary, template, is_gguf=True)


def _number(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _text(file: BinaryIO) -> str:
    length = _number(file, "<Q")
    text = file.read(length)
    if len(text) != length:
        raise ValueError("a text ends too early")
    return text.decode()


def _entry(file: BinaryIO) -> tuple[str, Any]:
    return _text(file), _value(file, _number(file, "<I"))


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _TEXT:
        return _text(file)
    if kind != _LIST:
        return _number(file, _FORMATS[kind])
    inner, count = _number(file, "<I"), _number(file, "<Q")
    if inner == _TEXT:
        for _ in range(count):
            file.seek(_number(file, "<Q"), 1)
    elif inner == _LIST:
        for _ in range(count):
            _value(file, inner)
    else:
        file.seek(count * struct.calcsize(_FORMATS[inner]), 1)
    return count
