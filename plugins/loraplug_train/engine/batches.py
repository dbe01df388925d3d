"""Encoded rows as batches: documents end to end, as padded rows, or one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, pairwise
from typing import Any

from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from loraplug_train.engine import weights

Row = dict[str, Any]


class Collator:
    """Makes batches as a model takes them; rows are dictionaries of encoded columns, `token_weights` included."""

    def __init__(self, pad_token_id: int) -> None:
        self.padded = DataCollatorForLanguageModeling(pad_token_id)
        self.end_to_end = DataCollatorForLanguageModeling(pad_token_id, padding_free=True)

    def __call__(self, rows: list[Row], padded: bool = False) -> dict[str, Any]:
        """Rows as one batch.

        Several rows, or one of several documents, become a single row of shape (1, tokens) with `position_ids` that
        start again at 0 with each document, and nothing is padding. A single document, and all rows where `padded`
        (which must be of a document each then), have shape (rows, tokens of the longest) and an `attention_mask`.
        """
        if padded or (len(rows) == 1 and len(rows[0].get("seq_lengths") or [0]) == 1):
            plain = [{name: row[name] for name in ("input_ids", "labels")} for row in rows]
            batch: dict[str, Any] = self.padded(plain)
            factors = weights.of_padded(rows)
        else:
            whole = [{**row, "seq_lengths": row.get("seq_lengths") or [len(row["labels"])]} for row in rows]
            batch = self.end_to_end(whole)
            factors = weights.of_batch(rows)
        return batch if factors is None else {**batch, weights.COLUMN: factors}


def documents(rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """The rows with every document in a row of its own, which keeps the name of the one it was packed into."""
    columns = ("input_ids", "labels", weights.COLUMN)
    for row in rows:
        lengths = row.get("seq_lengths")
        if not lengths or len(lengths) == 1:
            yield {**row, "seq_lengths": None}
            continue
        for start, end in pairwise(accumulate(lengths, initial=0)):
            cut = {name: row[name][start:end] for name in columns if row.get(name) is not None}
            yield {**row, **cut, "seq_lengths": None}
