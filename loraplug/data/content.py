"""The content of a message as text; images and other media are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loraplug.config.errors import InputError
from loraplug.data.weights import no_mask

MEDIA_KEYS = frozenset(
    f"{name}{end}" for name in ("image", "audio", "video", "picture") for end in ("", "s", "_url", "_urls", "_path")
)
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_TEXT_PARTS = frozenset({"text", "input_text", "output_text", None})
_MEDIA_PARTS = {
    "image": "an image", "image_url": "an image", "input_image": "an image", "video": "a video", "video_url": "a video",
    "audio": "audio", "input_audio": "audio", "audio_url": "audio", "file": "a file", "input_file": "a file",
}  # fmt: skip


def text_of(content: Any, role: str, unread: set[str]) -> str | None:
    """The content as text: parts joined, a tool's result that is a table, list or number as JSON.

    `unread` gets the names of further keys that parts have.

    Raises:
        InputError: it contains something other than text, or nothing.
    """
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, str) or _is_part(part) for part in content):
        return "".join(_part(part, unread) for part in content)
    if role == "tool":
        return json.dumps(content, ensure_ascii=False)
    raise InputError(f"the content of a message ({role}) is {kind(content)}, not text")


def no_media(table: Mapping[str, Any], whose: str) -> None:
    """Raise InputError if a key for images, audio or video holds something."""
    for key, value in table.items():
        if key.lower() in MEDIA_KEYS and not is_empty(value):
            raise InputError(
                f'{whose} has {key.replace("_", " ")} (key "{key}"), which a language model cannot see',
                todo="remove such rows from the data; only text is trained",
            )


def kind(value: Any) -> str:
    """The type of a value, in words for messages."""
    if value is None:
        return "null"
    words = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", tuple: "a list"}
    return "a table" if isinstance(value, Mapping) else words.get(type(value), "no text")


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, an empty text, list or table, or a list of such."""
    return value in _NOTHING or (isinstance(value, list) and all(map(is_empty, value)))


def _is_part(part: Any) -> bool:
    return isinstance(part, Mapping) and ("type" in part or "text" in part)


def _part(part: Any, unread: set[str]) -> str:
    if isinstance(part, str):
        return part
    sort = part.get("type")
    if isinstance(sort, str) and sort in _MEDIA_PARTS:
        raise InputError(
            f"a message contains {_MEDIA_PARTS[sort]} (a part of type {sort}), which a language model cannot see",
            todo="remove such rows from the data; only text is trained",
        )
    if not (sort is None or isinstance(sort, str)) or sort not in _TEXT_PARTS:
        raise InputError(f"a message contains a part of unknown type {str(sort)[:40]!r}; only text is supported")
    no_media(part, "a part of a message")
    no_mask(part, "a part of a message")
    unread |= {f"content[].{key}" for key in part if key not in ("type", "text") and part[key] not in _NOTHING}
    if not isinstance(part.get("text"), str):
        raise InputError("a part of a message has no text")
    return str(part["text"])
