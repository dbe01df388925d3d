"""Rows with the very keys and values they were written with.

Arrow stores nested tables as structs, in which every row has the keys of all rows; those that a row did not write are
null. Such nulls are taken out again. `Json` columns keep what was written, nulls too; they are read here rather than by
`datasets`, whose reader rounds numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    Clean = Callable[[Any], Any]

_ROWS_A_BATCH = 256


def iter_rows(rows: Dataset) -> Iterator[dict[str, Any]]:
    """The rows of a data set one by one, without the nulls that Arrow put into nested tables; media are not decoded."""
    names, features = rows.column_names, rows.features
    for batch in rows.with_format("arrow").iter(batch_size=_ROWS_A_BATCH):
        columns = [_values(batch.column(name).combine_chunks(), features[name]) for name in names]
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))


def _values(array: Any, feature: Any) -> list[Any]:
    values: list[Any] = array.to_pylist()
    clean = _cleaner(array, feature)
    return values if clean is None else [None if value is None else clean(value) for value in values]


def _cleaner(array: Any, feature: Any) -> Clean | None:
    """What makes a value of this array what was written, in place; None where there is nothing to do."""
    if isinstance(feature, Mapping):
        return _table(array, feature)
    if type(feature).__name__ == "Json":
        return json.loads
    items = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    clean = None if items is None else _cleaner(array.flatten(), items)
    if clean is None:
        return None
    return lambda values: [None if value is None else clean(value) for value in values]


def _table(array: Any, feature: Mapping[str, Any]) -> Clean | None:
    fields = dict(zip((field.name for field in array.type), array.flatten(), strict=True))
    absent = [name for name, values in fields.items() if values.null_count]
    inside = [(name, clean) for name, item in feature.items() if (clean := _cleaner(fields[name], item)) is not None]
    if not absent and not inside:
        return None

    def table(value: dict[str, Any]) -> dict[str, Any]:
        for name in absent:
            if value[name] is None:
                del value[name]
        for name, clean in inside:
            if name in value:
                value[name] = clean(value[name])
        return value

    return table
