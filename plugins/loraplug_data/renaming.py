"""Renames columns of a data set, and keys inside them, in whatever way Arrow stores them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from loraplug import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_SHOWN = 8


def flat(rename: Mapping[str, Any]) -> dict[str, Any]:
    """A rename as written, its tables as dotted names: `messages.text = "content"` is a table in TOML."""
    made: dict[str, Any] = {}
    for key, value in rename.items():
        if isinstance(value, Mapping):
            made |= {f"{key}.{inner}": new for inner, new in flat(value).items()}
        else:
            made[key] = value
    return made


def new_names(_: Any, __: Any, value: Mapping[str, Any]) -> None:
    """ValueError where a new name is none."""
    for old, new in value.items():
        if not isinstance(new, str) or not new or not old:
            raise ValueError(f"expected a new name for {old!r}, got {new!r}")


def renamed(rows: Dataset, rename: Mapping[str, str], where: str) -> Dataset:
    """The rows under the names that `rename` gives, all at once, so that two columns can change places.

    Raises:
        InputError: a column or key is not there, or its new name is taken.
    """
    columns = {old: new for old, new in rename.items() if old in rows.column_names}
    inside = {old: new for old, new in rename.items() if old not in columns}
    for old, new in inside.items():
        rows = _keys_renamed(rows, old, new, columns, where)
    names = [columns.get(name, name) for name in rows.column_names]
    if taken := [name for name, count in Counter(names).items() if count > 1]:
        old = next(old for old, new in columns.items() if new == taken[0])
        what = f'"{old}" cannot be renamed to "{taken[0]}": that column exists already'
        todo = f'rename that one as well: {taken[0]} = "other_{taken[0]}"'
        raise InputError(what, where=where, todo=todo)
    return rows.rename_columns(columns) if columns else rows


def _keys_renamed(rows: Dataset, old: str, new: str, columns: Mapping[str, str], where: str) -> Dataset:
    """Rename one key inside a column: `messages.text`, wherever an object below the column has it at that place."""
    by_new_name = {to: name for name, to in columns.items()}
    head = max((name for name in [*rows.column_names, *by_new_name] if old.startswith(f"{name}.")), key=len, default="")
    column = by_new_name.get(head, head) if head not in rows.column_names else head
    if not column:
        near = get_close_matches(old, rows.column_names, n=1)
        what = f'no column "{old}" in the data' + (f' (did you mean "{near[0]}"?)' if near else "")
        raise InputError(what, where=where, todo=f"columns: {', '.join(rows.column_names)}")
    path = old.removeprefix(f"{head}.").split(".")
    above = old.rpartition(".")[0]
    if new.rpartition(".")[0] == above:
        new = new.rpartition(".")[2]
    elif "." in new:
        what = f'"{old}" is a key inside a column and cannot become "{new}"'
        todo = f'give only the new name of the key: "{old}" = "{new.split(".")[-1]}"'
        raise InputError(what, where=where, todo=todo)
    work = _Keys(column, rows.features[column], path[:-1], path[-1], new)
    features = rows.features.copy()
    features[column] = work.renamed
    made = rows.with_format("arrow").map(
        work.table, batched=True, batch_size=256, features=features, load_from_cache_file=False
    )
    if work.taken:
        what = f'"{old}" cannot be renamed to "{new}": {work.taken} objects have both keys'
        raise InputError(what, where=where, todo="remove one of the two from the data")
    if not work.count:
        todo = f"keys there: {', '.join(sorted(work.seen)[:_SHOWN])}" if work.seen else "check the name"
        raise InputError(f'no "{path[-1]}" in {above}', where=where, todo=todo)
    return made.with_format(None)


class _Keys:
    """A key that gets a new name in every object at the end of a path, through lists and objects, of one column.

    `datasets` names what it makes of rows by their own name and what is pickled here: what is said, not what is found.
    """

    def __init__(self, column: str, feature: Any, way: list[str], old: str, new: str) -> None:
        self.column, self.way, self.old, self.new = column, way, old, new
        self.count = self.taken = 0
        self.seen: set[str] = set()
        self.as_text = type(feature).__name__ == "Json" or getattr(feature, "dtype", None) == "string"
        self.renamed = self._renamed(feature)
        """The feature under the new name; a `Json` one stays what it is, and text becomes one."""

    def __getstate__(self) -> tuple[str, list[str], str, str]:
        return self.column, self.way, self.old, self.new

    def _renamed(self, feature: Any) -> Any:
        if getattr(feature, "dtype", None) == "string":
            from datasets import Json

            return Json()
        return self._feature(feature, self.way)

    def table(self, batch: pa.Table) -> pa.Table:
        """A batch with the column under the new name."""
        place = batch.column_names.index(self.column)
        return batch.set_column(place, self.column, self._array(batch.column(self.column).combine_chunks()))

    def _feature(self, feature: Any, way: list[str]) -> Any:
        from datasets import LargeList, List

        if isinstance(feature, Mapping):
            if way:
                return {key: self._feature(one, way[1:]) if key == way[0] else one for key, one in feature.items()}
            self.seen |= set(feature)
            self.count += self.old in feature
            self.taken += self.old in feature and self.new in feature
            if self.taken:
                return feature
            return {self.new if key == self.old else key: one for key, one in feature.items()}
        if isinstance(feature, List | LargeList):
            return type(feature)(self._feature(feature.feature, way), **_length(feature))
        return feature

    def _array(self, array: pa.Array) -> pa.Array:
        import pyarrow

        if self.as_text:
            return pyarrow.array([None if text is None else self._text(text) for text in array.to_pylist()],
                                 type=array.type)  # fmt: skip
        return array.view(self._type(array.type, self.way)) if self.count and not self.taken else array

    def _type(self, kind: pa.DataType, way: list[str]) -> pa.DataType:
        import pyarrow

        if pyarrow.types.is_struct(kind):
            return pyarrow.struct([self._field(kind.field(at), way) for at in range(kind.num_fields)])
        if pyarrow.types.is_large_list(kind):
            return pyarrow.large_list(self._type(kind.value_type, way))
        if pyarrow.types.is_fixed_size_list(kind):
            return pyarrow.list_(self._type(kind.value_type, way), kind.list_size)
        return pyarrow.list_(self._type(kind.value_type, way)) if pyarrow.types.is_list(kind) else kind

    def _field(self, field: pa.Field, way: list[str]) -> pa.Field:
        if way:
            return field.with_type(self._type(field.type, way[1:])) if field.name == way[0] else field
        return field.with_name(self.new) if field.name == self.old else field

    def _text(self, text: str) -> str:
        value = _table(text)
        twice = isinstance(value, str)  # so `datasets` stores what it cannot read as JSON, such as huge numbers
        if twice:
            value = _table(value)
        for found in self._objects(value, self.way):
            self.seen |= found.keys()
            if self.old in found:
                self.count += 1
                self.taken += self.new in found
                changed = {self.new if key == self.old else key: one for key, one in found.items()}
                found.clear()
                found.update(changed)
        written = json.dumps(value, ensure_ascii=False)
        return json.dumps(written, ensure_ascii=False) if twice and not isinstance(value, str) else written

    def _objects(self, value: Any, way: list[str]) -> Iterator[dict[str, Any]]:
        if isinstance(value, list):
            for item in value:
                yield from self._objects(item, way)
        elif isinstance(value, dict) and not way:
            yield value
        elif isinstance(value, dict) and way[0] in value:
            yield from self._objects(value[way[0]], way[1:])


def _table(text: str) -> Any:
    """The list or object that a text writes as JSON, or a text in it; another text as it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, list | dict | str) else text


def _length(feature: Any) -> dict[str, int]:
    return {"length": feature.length} if getattr(feature, "length", -1) != -1 else {}
