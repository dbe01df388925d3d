"""The schemas of encoded rows: the columns of each, and the token sequences in a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from attrs import Factory, frozen

from loraplug.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED = -100
"""The label of a token that is not trained."""


@frozen
class Schema:
    """The columns of one kind of encoded rows.

    Attributes:
        columns: name to what a value is: "ids" (list of int), "labels" (list of int: -100, or the token itself),
            "names" (list of str), "number" or "truth".
        optional: further columns; "weights" is a list of float, or null where all are 1.
        judged: columns of rows that this schema is made of, which say how good an answer is.
    """

    columns: Mapping[str, str]
    optional: Mapping[str, str] = Factory(dict)
    judged: frozenset[str] = frozenset()


SCHEMAS: Mapping[str, Schema] = {
    "tokens": Schema(
        {"input_ids": "ids", "labels": "labels", "row": "names"},
        {"token_weights": "weights", "seq_lengths": "ids", "set": "name"},
    ),
    "pairs": Schema(
        {
            "prompt_ids": "ids", "chosen_ids": "ids", "rejected_ids": "ids", "chosen_labels": "labels",
            "rejected_labels": "labels", "row": "names",
        },
        {"set": "name"},
        frozenset({"chosen", "rejected"}),
    ),
    "labelled": Schema(
        {"prompt_ids": "ids", "completion_ids": "ids", "completion_labels": "labels", "label": "truth", "row": "names"},
        {"set": "name"},
        frozenset({"label"}),
    ),
    "rollouts": Schema(
        {
            "prompt_ids": "ids", "completion_ids": "ids", "old_log_probs": "weights", "advantage": "number",
            "group": "name", "row": "names",
        },
        {"set": "name"},
        frozenset({"advantage", "reward"}),
    ),
}  # fmt: skip
"""The schemas that are known by name: version 1 of each."""


@frozen
class Encoded:
    """Rows as a formatter encodes them.

    Attributes:
        dataset: the rows, with the columns of the schema.
        schema: one of `SCHEMAS`, or a name that formatter and trainer know between them.
        report: what became of the rows, for `plan`: JSON values. Known: `rows`, `kept`, `truncated`, `lost` (reason to
            number of rows), `examples` (reason to names of rows).
    """

    dataset: Dataset
    schema: str = "tokens"
    report: Mapping[str, Any] = Factory(dict)


@frozen
class TokenSequence:
    """Tokens that a model reads from the beginning, seeing nothing else.

    Attributes:
        input_ids: L token ids.
        labels: of length L, each -100 or the token itself. What is at position t is predicted from those before it, so
            a label on the first token counts for nothing.
        weights: of length L, a factor for each token, as the column `token_weights`; None: all 1.
    """

    input_ids: Sequence[int]
    labels: Sequence[int]
    weights: Sequence[float] | None = None

    @property
    def label_count(self) -> int:
        """How many tokens have a label that counts."""
        return sum(label != IGNORED for label in self.labels[1:])


def token_sequences(schema: str, row: Mapping[str, Any]) -> list[TokenSequence]:
    """What a model reads of an encoded row.

    tokens: its documents. pairs: prompt and chosen answer, then prompt and rejected one. labelled, rollouts: prompt and
    completion.

    Raises:
        NotImplementedError: the schema is none of `SCHEMAS`.
    """
    if schema == "tokens":
        return list(_documents(row))
    if schema == "pairs":
        return [_answered(row, f"{side}_ids", f"{side}_labels") for side in ("chosen", "rejected")]
    if schema == "labelled":
        return [_answered(row, "completion_ids", "completion_labels")]
    if schema == "rollouts":
        return [_answered(row, "completion_ids", "completion_ids")]
    raise NotImplementedError(f"the token sequences of rows of the schema {schema!r} are unknown")


def row_lengths(encoded: Encoded) -> list[int]:
    """The tokens that a model reads of each row."""
    if encoded.schema == "tokens":
        lengths: list[int] = []
        for table in encoded.dataset.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=1000):
            lengths += table.column(0).combine_chunks().value_lengths().to_pylist()
        return lengths
    return [sum(len(one.input_ids) for one in token_sequences(encoded.schema, row)) for row in encoded.dataset]


def check_encoded(encoded: Any, asked: str, formatter: str) -> None:
    """Check a formatter's result against the requested schema, by column names.

    Raises:
        InputError: it is no `Encoded`, of another schema, or lacks a column.
    """
    where, todo = f"formatter {formatter}", "report it to the author of the formatter"
    if not isinstance(encoded, Encoded):
        raise InputError(f"encode() returned {type(encoded).__name__}, not Encoded", where=where, todo=todo)
    if encoded.schema != asked:
        raise InputError(f"returned rows of the schema {encoded.schema}, not {asked}", where=where, todo=todo)
    known = SCHEMAS[asked].columns if asked in SCHEMAS else {}
    if missing := known.keys() - set(encoded.dataset.column_names):
        raise InputError(
            f"lacks the columns {', '.join(sorted(missing))} of the schema {asked}", where=where, todo=todo
        )


def mismatch(produces: Iterable[str], consumes: str, formatter: str, trainer: str) -> str | None:
    """The message for a trainer whose schema the formatter cannot produce; None if it can."""
    made = sorted(produces)
    if consumes in made:
        return None
    return f"{formatter} makes rows of the schema {', '.join(made)}, and the trainer {trainer} takes {consumes}"


def _documents(row: Mapping[str, Any]) -> Iterator[TokenSequence]:
    start, weights = 0, row.get("token_weights")
    for length in row.get("seq_lengths") or [len(row["input_ids"])]:
        end = start + length
        part = None if weights is None else weights[start:end]
        yield TokenSequence(row["input_ids"][start:end], row["labels"][start:end], part)
        start = end


def _answered(row: Mapping[str, Any], ids: str, labels: str) -> TokenSequence:
    prompt = list(row["prompt_ids"])
    return TokenSequence([*prompt, *row[ids]], [*[IGNORED] * len(prompt), *row[labels]])


Role = Literal["policy", "reference"]


@frozen
class Placement:
    """Where and how a model is to be loaded; a default leaves it to the loader.

    Attributes:
        device: such as "cpu" or "cuda:0"; None: the GPU of this process where there is one.
        dtype: "float32", "bfloat16" or "float16"; None: what the recipe says of the model.
        meta: without weights, on the meta device, as `ModelLoader.load_empty`.
        sharding: "fsdp2" or "zero3" where the trainer will share the weights out over processes, so that one device
            need not hold them all: they are left on the CPU. Else "".
        role: what the model is for: trained, or asked as what the trained one is compared with.
    """

    device: str | None = None
    dtype: str | None = None
    meta: bool = False
    sharding: str = ""
    role: Role = "policy"
