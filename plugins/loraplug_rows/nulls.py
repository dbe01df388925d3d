"""Rows with the very keys and values they were written with.

Arrow stores nested tables as structs, in which every row has the keys of all rows; those that a row did not write are
null. Such nulls are taken out again. `Json` columns keep what was written, nulls too; they are read here rather than by
`datasets`, whose reader rounds numbers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    Clean = Callable[[Any], Any]

_ROWS_A_BATCH = 256


def iter_rows(rows: Dataset) -> Iterator[dict[str, Any]]:
    """The rows of a data set one by one, without the nulls that Arrow put into nested tables; media are not decoded."""
    names, features = rows.column_names, dict(rows.features)
    rows = rows.with_format(None)
    for name, feature in features.items():
        if (stored := _stored(feature)) != feature:
            rows = rows.cast_column(name, stored)
    cleaners = [(name, clean) for name in names if (clean := cleaner(features[name])) is not None]
    for batch in rows.iter(batch_size=_ROWS_A_BATCH):
        for name, clean in cleaners:
            batch[name] = [clean(value) for value in batch[name]]
        for values in zip(*(batch[name] for name in names), strict=True):
            yield dict(zip(names, values, strict=True))


def cleaner(feature: Any) -> Clean | None:
    """What makes a stored value of this `datasets` feature what was written; None where that is the value itself."""
    if isinstance(feature, Mapping):
        return _table({key: made for key, item in feature.items() if (made := cleaner(item)) is not None})
    if type(feature).__name__ == "Json":
        return _read
    items = _items(feature)
    clean = None if items is None else cleaner(items)
    if clean is None:
        return None
    return lambda values: None if values is None else [clean(value) for value in values]


def _table(inside: Mapping[str, Clean]) -> Clean:
    def table(value: Any) -> Any:
        if value is None:
            return None
        made = {key: item for key, item in value.items() if item is not None}
        for key, clean in inside.items():
            if key in made:
                made[key] = clean(made[key])
        return made

    return table


def _read(text: Any) -> Any:
    return json.loads(text) if isinstance(text, str) else text


def _items(feature: Any) -> Any:
    """What a list holds; None for what is no list."""
    return feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)


def _stored(feature: Any) -> Any:
    """The feature with everything in it left as it is stored: JSON as text, media not decoded."""
    if isinstance(feature, Mapping):
        return {key: _stored(item) for key, item in feature.items()}
    if isinstance(feature, list):
        return [_stored(item) for item in feature]
    if getattr(feature, "decode", False) is True:
        return dataclasses.replace(feature, decode=False)
    if (items := _items(feature)) is not None:
        return dataclasses.replace(feature, feature=_stored(items))
    return feature
