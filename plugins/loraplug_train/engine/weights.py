"""Token weights: a factor for each token's loss, in a column of the encoded rows beside the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import evolve

from loraplug import Encoded, InputError

if TYPE_CHECKING:
    from datasets import Dataset

COLUMN = "token_weights"
_NAMED = 5  # rows named in an error


def checked(encoded: Encoded, where: str) -> Encoded:
    """The rows, with label -100 wherever a token's weight is 0: such a token is not trained and not counted.

    Args:
        encoded: weights of None are all 1, as where there is no such column.
        where: what the rows are; errors name it.

    Raises:
        InputError: a row has another number of weights than of labels, or one that is negative, NaN or infinite.
    """
    rows = encoded.dataset
    if COLUMN not in rows.column_names:
        return encoded
    wrong, masked, changed = [], [], False
    for row in rows.select_columns(["labels", COLUMN, "row"]):
        labels, weights = row["labels"], row[COLUMN]
        fault = None if weights is None else _fault(weights, len(labels))
        if fault:
            wrong.append(f"{row['row'][0]}: {fault}")
        elif weights is not None and 0 in weights:
            kept = [label if weight else -100 for label, weight in zip(labels, weights, strict=True)]
            changed, labels = changed or kept != labels, kept
        masked.append(labels)
    if wrong:
        more = f", and {len(wrong) - _NAMED} more rows" if len(wrong) > _NAMED else ""
        raise InputError(
            f"{COLUMN} is not valid: {'; '.join(wrong[:_NAMED])}{more}",
            where=where,
            todo="give each token a finite weight of at least 0, as the formatter's documentation says",
        )
    return evolve(encoded, dataset=_with_labels(rows, masked)) if changed else encoded


def _fault(weights: list[float], tokens: int) -> str | None:
    if len(weights) != tokens:
        return f"{len(weights)} weights for {tokens} labels"
    values = np.array(weights, dtype=np.float64)  # None becomes NaN
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    return f"token {bad[0]} has the weight {weights[bad[0]]}" if len(bad) else None


def _with_labels(rows: Dataset, labels: list[list[int]]) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset

    table = rows.with_format("arrow")[:]
    at = table.column_names.index("labels")
    return Dataset(table.set_column(at, "labels", pa.array(labels, table.schema.field("labels").type)))
