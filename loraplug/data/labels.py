"""Detects columns that label or rank whole rows, and refuses them if the trainer does not use them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from loraplug.config.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

_RANKED = re.compile(
    r"(chosen|rejected)(_(response|answer|completion|messages|conversations?|score|rating|reward))?"
    r"|(score|rating|reward|response|answer|completion)_(chosen|rejected)"
)
_LABEL = frozenset({"label", "labels"})
_SCORE = frozenset({"score", "reward", "rating", "preference", "advantage"})
_WANTED, _UNWANTED = frozenset({"true", "1", "1.0"}), frozenset({"false", "0", "0.0", "-1", "-1.0"})
_MEANT = {
    "ranked": "preference rows with a chosen and a rejected answer",
    "label": "labels that say whether an answer is wanted",
    "score": "scores of how good an answer is",
}


def check_labels(rows: Dataset, consumed: frozenset[str], where: str, trainer: str) -> None:
    """Refuse rows with labels that the trainer does not use: it would also train on unwanted answers.

    Raises:
        InputError: says which columns, what they mean, and in how many rows.
    """
    for name in rows.column_names:
        sort = label_kind(name)
        if sort == "ranked" and consumed >= {"chosen", "rejected"}:  # scores beside the sides, which say no more
            continue
        if sort is None or name in consumed or hasattr(rows.features[name], "names"):  # a class label judges nothing
            continue
        values = [value for value in rows.with_format(None)[name][:] if value is not None]
        if judges(sort, values):
            raise InputError(
                f'the column "{name}" ({len(values)} rows) has {_MEANT[sort]}, which {trainer} does not use',
                where=where,
                todo=advice(name, sort, rows.column_names),
            )


def advice(name: str, sort: str, columns: Iterable[str]) -> str:
    """What to do about a column of labels."""
    if sort == "ranked":
        wanted = "completion" if "prompt" in columns else "messages"
        others = [other for other in columns if other != "chosen" and label_kind(other) == "ranked"]
        aside = "".join(f', {other} = "their_{other}"' for other in sorted(others))
        return f'to train on the chosen answers only: [dataset] rename = {{ chosen = "{wanted}"{aside} }}'
    return (
        f'remove unwanted rows from the data, then rename the column: [dataset] rename = {{ {name} = "their_{name}" }}'
    )


def label_kind(name: str) -> str | None:
    """`ranked`, `label` or `score` for a column whose name says so."""
    if _RANKED.fullmatch(name):
        return "ranked"
    return "label" if name in _LABEL else "score" if name in _SCORE else None


def judges(sort: str, values: list[Any]) -> bool:
    """Whether the values (none null) say that rows differ in worth."""
    if sort == "ranked":
        return bool(values)
    if sort == "label":
        words = {str(value).lower() for value in values}
        return bool(words & _UNWANTED) and words <= _UNWANTED | _WANTED
    return bool(values) and all(_is_number(value) for value in values)


def wanted(value: Any) -> bool | None:
    """What a label says of its row; None where it is none of the words for yes and no."""
    word = str(value).strip().lower()
    return True if word in _WANTED else False if word in _UNWANTED else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
