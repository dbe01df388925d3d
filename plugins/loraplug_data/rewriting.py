"""Texts of a data set put otherwise, in whatever way Arrow stores them; rows that stay the same keep their bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

Change = Callable[[str, int], str]
"""Gives a text's new form; the number is the row's position in its batch."""


def is_json(feature: Any) -> bool:
    """Whether a column holds values written as JSON."""
    return type(feature).__name__ == "Json"


def rewritten(array: pa.Array, feature: Any, change: Change) -> pa.Array:
    """A column with every text in it changed; the very same array where that makes no difference."""
    import pyarrow

    if not _has_text(array.type):
        return array
    old = array.to_pylist()
    new = [_through(value, feature, change, at) for at, value in enumerate(old)]
    return array if new == old else pyarrow.array(new, type=array.type)


def _through(value: Any, feature: Any, change: Change, at: int) -> Any:
    if value is None:
        return None
    if is_json(feature):
        return _in_json(value, change, at)
    if isinstance(value, str):
        return change(value, at)
    if isinstance(value, dict):
        columns = feature if isinstance(feature, Mapping) else {}
        return {key: _through(item, columns.get(key), change, at) for key, item in value.items()}
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
        return [_through(item, inner, change, at) for item in value]
    return value


def _in_json(text: str, change: Change, at: int) -> str:
    """A text that is JSON, with the texts inside it changed."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return change(text, at)
    made = _through(value, None, change, at)
    return text if made == value else json.dumps(made, ensure_ascii=False)


def _has_text(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    kind = getattr(kind, "storage_type", kind)
    if types.is_struct(kind):
        return any(_has_text(kind.field(at).type) for at in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _has_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind))
