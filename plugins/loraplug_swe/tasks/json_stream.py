"""JSON files larger than memory: the elements of an array, decoded one at a time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loraplug import InputError
from loraplug_swe.tasks.rejects import Reject

_CHUNK = 1 << 20
_LONGEST_NUMBER = 400  # characters


def decode(raw: bytes) -> Any:
    """JSON, with or without a byte-order mark.

    Raises:
        Reject: `bad-json`.
    """
    try:
        return json.loads(raw.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        raise Reject("bad-json", str(error)) from None


def json_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Elements of a JSON array, or the one table the file holds, decoded one at a time out of a window of text."""
    decoder, reader = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8-sig")()
    with path.open("rb") as file:
        text, at, ended, index = "", 0, False, -1
        while True:
            text, at = text[at:].lstrip(), 0
            window = max(_CHUNK, 2 * len(text))  # doubling keeps one huge element linear
            while not ended and len(text) < window:
                raw = file.read(window - len(text))
                ended = not raw
                try:
                    text += reader.decode(raw, final=ended)
                except UnicodeDecodeError as error:
                    raise InputError(f"not UTF-8: {error}", where=path, todo="save the file as UTF-8") from None
            if index < 0:
                text, index = text.lstrip(), 0
                if text[:1] == "{":
                    yield f"{path.name}, entry 0", _whole(path)
                    return
                if text[:1] != "[":
                    raise InputError(
                        "not a JSON array of tasks",
                        where=path,
                        todo="write one array, or one task per line in a .jsonl file",
                    )
                at = 1
            while True:
                at = _skip_space(text, at)
                if text.startswith("]", at):
                    if (text[at + 1 :].encode() + file.read()).strip():
                        raise InputError("text follows the closing bracket", where=path, todo="correct the file")
                    return
                if index and at < len(text) and text[at] != ",":
                    raise InputError(f"no comma after entry {index - 1}", where=path, todo="correct the file")
                try:
                    value, end = decoder.raw_decode(text, _skip_space(text, at + 1) if index else at)
                except (json.JSONDecodeError, RecursionError) as error:
                    if ended:
                        raise InputError(
                            f"not JSON after entry {index - 1}: {error}", where=path, todo="correct the file"
                        ) from None
                    break
                except ValueError as error:  # a number of 5,000 digits
                    raise InputError(
                        f"entry {index} cannot be read: {error}", where=path, todo="correct the file"
                    ) from None
                if not ended and not isinstance(value, dict | list | str) and len(text) - end < _LONGEST_NUMBER:
                    break  # a number might go on
                yield f"{path.name}, entry {index}", value
                at, index = end, index + 1


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _whole(path: Path) -> Any:
    try:
        return decode(path.read_bytes())
    except Reject as fault:
        return fault
