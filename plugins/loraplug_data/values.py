"""`map`: replaces values of a column, or of a key inside it."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import field, frozen

from loraplug import Doc, InputError, Run, Transform
from loraplug_data.caching import changed
from loraplug_data.columns import check_columns
from loraplug_data.rewriting import is_json

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

_SHOWN = 8


def _some(_: Any, __: Any, value: dict[str, Any]) -> None:
    if not value:
        raise ValueError('expected old values to new, such as { human = "user", gpt = "assistant" }')


@frozen
class Map(Transform):
    """Replaces values: `human` becomes `user`, 1 becomes `true`; in a column, or at a key inside it."""

    name = "map"
    column: Annotated[str, Doc("a column, or the path of a key inside one, such as conversations.from")]
    values: Annotated[
        dict[str, Any], Doc('old values to new, `{ human = "user", gpt = "assistant" }`; numbers and true are quoted')
    ] = field(validator=_some)
    other: Annotated[Literal["error", "keep"], Doc("what to do with other values")] = "error"

    def apply(self, rows: Dataset, run: Run) -> Dataset:
        """The rows with the new values; how many were put is told.

        Raises:
            InputError: no such column, a value that is not among them, or new values that the column cannot hold.
        """
        where = "dataset.transform map: column"
        head = self.column if self.column in rows.column_names else self.column.split(".")[0]
        check_columns([head], rows.column_names, where)
        way = self.column.removeprefix(head).removeprefix(".").split(".") if head != self.column else []
        features = self._features(rows, head, way)
        made, counts = changed(
            rows, self, run, lambda table, counts: self._table(table, counts, head, way, features), features
        )
        if not counts["put"] and not counts["other"]:
            raise InputError(f"there is no value at {self.column}", where=where, todo="check the path")
        run.say(f"map: {counts['put']} values of {self.column} put" + (f", {counts['other']} kept as they were" if
                counts["other"] else ""))  # fmt: skip
        return made

    def _features(self, rows: Dataset, head: str, way: list[str]) -> Features:
        from datasets import Json, Value

        features = rows.features.copy()
        if way or is_json(features[head]):
            return features
        kinds = {type(value) for value in self.values.values()}
        if self.other == "keep":
            kinds.add({"string": str, "bool": bool}.get(getattr(features[head], "dtype", ""), int))
        named = {str: "string", bool: "bool", int: "int64", float: "float64"}
        kind = named.get(next(iter(kinds))) if len(kinds) == 1 else None
        features[head] = Json() if kind is None else Value(kind)
        return features

    def _table(self, table: pa.Table, counts: Counter[str], head: str, way: list[str], features: Features) -> pa.Table:
        import pyarrow

        place = table.column_names.index(head)
        column = table.column(head).combine_chunks()
        old = column.to_pylist()
        if isinstance(column.type, pyarrow.JsonType):
            old = [None if value is None else json.loads(value) for value in old]
        new = [self._put(value, way, counts) for value in old]
        kind = features.arrow_schema.field(head).type
        if is_json(features[head]):
            new = [None if value is None else json.dumps(value, ensure_ascii=False) for value in new]
        try:
            made = pyarrow.array(new, type=kind)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
            what, at = f"the new values do not fit the column {self.column}: {error}", "dataset.transform map: values"
            raise InputError(what, where=at, todo="give values of one type") from None
        return table.set_column(place, pyarrow.field(head, kind), made)

    def _put(self, value: Any, way: list[str], counts: Counter[str]) -> Any:
        if isinstance(value, list):
            return [self._put(item, way, counts) for item in value]
        if way:
            if isinstance(value, dict) and way[0] in value:
                return {**value, way[0]: self._put(value[way[0]], way[1:], counts)}
            return value
        if value is None:
            return None
        key = value if isinstance(value, str) else json.dumps(value)
        if key in self.values:
            counts["put"] += 1
            return self.values[key]
        if self.other == "error":
            known = ", ".join(list(self.values)[:_SHOWN])
            raise InputError(f"{value!r:.80} is not listed in values", where=f"dataset.transform map: {self.column}",
                             todo=f'listed are {known}; other = "keep" keeps other values')  # fmt: skip
        counts["other"] += 1
        return value
