"""Rows with exactly the keys and values they were written with.

Arrow stores nested tables as structs, in which every row has the keys of all rows; those that a row did not write are
null. Such nulls are taken out again. `Json` columns keep what was written, nulls too; they are read here rather than by
`datasets`, whose reader rounds numbers.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    Clean = Callable[[list[Any]], list[Any]]

_ROWS_A_BATCH = 256


def iter_rows(rows: Dataset) -> Iterator[dict[str, Any]]:
    """The rows of a data set one by one, without the nulls that Arrow put into nested tables; media are not decoded."""
    names, features = rows.column_names, rows.features
    for batch in rows.with_format("arrow").iter(batch_size=_ROWS_A_BATCH):
        with _no_search_for_cycles():
            columns = [_values(batch.column(name).combine_chunks(), features[name]) for name in names]
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Python looks for cycles whenever 700 tables and lists were made: those of a batch have none, and are many."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _values(array: Any, feature: Any) -> list[Any]:
    values: list[Any] = array.to_pylist()
    clean = _cleaner(array, feature)
    return values if clean is None else clean(values)


def _cleaner(array: Any, feature: Any) -> Clean | None:
    """What makes the values of this array, all of them together, what was written; None where nothing is to be done.

    Tables and lists are changed in place. It works on all values of a batch at once, and looks at those alone that
    Arrow says are null, as Arrow reads a table in less time than a call of Python's takes.
    """
    if isinstance(feature, Mapping):
        return _tables(array, feature)
    if type(feature).__name__ == "Json":
        return lambda texts: [None if text is None else json.loads(text) for text in texts]
    items = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    clean = None if items is None else _cleaner(array.flatten(), items)
    return None if clean is None else lambda lists: _lists(lists, clean)


def _lists(lists: list[Any], clean: Clean) -> list[Any]:
    items = [*chain.from_iterable(filter(None, lists))]
    cleaned = clean(items)
    if cleaned is not items:
        rest = iter(cleaned)
        for values in filter(None, lists):
            values[:] = islice(rest, len(values))
    return lists


def _tables(array: Any, feature: Mapping[str, Any]) -> Clean | None:
    absent: list[tuple[str, list[int]]] = []
    inside: list[tuple[str, list[int] | None, Clean]] = []
    for field, values in zip(array.type, array.flatten(), strict=True):
        if values.null_count:
            absent.append((field.name, _places(values.is_null(), array)))
        item = feature[field.name]
        clean = _cleaner(values.drop_null() if isinstance(item, Mapping) else values, item)
        if clean is not None:
            inside.append((field.name, _places(values.is_valid(), array) if values.null_count else None, clean))
    if not absent and not inside:
        return None

    def cleaned(tables: list[Any]) -> list[Any]:
        for name, places in absent:
            for place in places:
                del tables[place][name]
        for name, present, clean in inside:
            having = tables if present is None else [tables[place] for place in present]
            values = [table[name] for table in having]
            made = clean(values)
            if made is not values:
                for table, value in zip(having, made, strict=True):
                    table[name] = value
        return tables

    return cleaned


def _places(which: Any, tables: Any) -> list[int]:
    """Where this holds, of the tables that are there themselves."""
    here = which.to_numpy(zero_copy_only=False)
    if tables.null_count:
        here = here & tables.is_valid().to_numpy(zero_copy_only=False)
    places: list[int] = here.nonzero()[0].tolist()
    return places
