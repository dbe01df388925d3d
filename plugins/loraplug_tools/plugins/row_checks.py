"""The checks of dataset sources and formatters: rows that are sound and rows that are not, and what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loraplug import Encoded, LoraplugError, conversation, iter_rows, preference, shape_of
from loraplug.testing import tiny_run, tiny_tokenizer
from loraplug_tools.plugins.conformance import CheckError, require

ROWS: dict[str, list[dict[str, Any]]] = {
    "messages": [
        {"messages": [{"role": "user", "content": f"what is {n}?"}, {"role": "assistant", "content": f"it is {n}"}]}
        for n in range(3)
    ],
    "prompt-completion": [{"prompt": f"{n} and one is ", "completion": f"{n + 1}"} for n in range(3)],
    "instruction-response": [{"instruction": f"add one to {n}", "response": f"{n + 1}"} for n in range(3)],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"hello {n}"}, {"from": "gpt", "value": "hello"}]}
        for n in range(3)
    ],
    "text": [{"text": f"def number_{n}():\n    '''The number.'''\n    return {n}\n" * 3} for n in range(3)],
}
"""Three sound rows of every shape that sources may yield."""

_BAD_ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"content": "who says this?"}]},
    "prompt-completion": {"prompt": None, "completion": None},
    "instruction-response": {"instruction": None, "response": None},
    "sharegpt": {"conversations": [{"from": "nobody known", "value": "hm"}]},
    "text": {"text": None},
}

_SPEAKERS = ("user", "assistant")


def as_dataset(rows: list[dict[str, Any]]) -> Any:
    """The rows as a data set."""
    from datasets import Dataset

    return Dataset.from_list(rows)


# dataset sources


def _shape(columns: list[str]) -> str:
    """The shape of rows, preferences included; of those with a label it is that of prompt and completion."""
    try:
        return shape_of(columns, "pairs")
    except LoraplugError:
        return shape_of(columns)


def _rows_have_a_shape(part: Any, room: Path) -> None:
    rows = part.load(run=tiny_run(room))
    require(len(rows), "gave no rows")
    shape = _shape(rows.column_names)
    for index, row in enumerate(iter_rows(rows)):
        if shape == "preference":
            preference(row, index)
        elif shape == "text":
            require(isinstance(row["text"], str), f"row {index}: text is {type(row['text']).__name__}")
        else:
            conversation(row, shape, index)


def _same_rows_twice(part: Any, room: Path) -> None:
    first, second = (part.load(run=tiny_run(room / name)) for name in ("one", "two"))
    require(first.column_names == second.column_names, "the columns differ from one load to the next")
    for index, (row, again) in enumerate(zip(first, second, strict=True)):
        require(row == again, f"row {index} differs from one load to the next")


# formatters


def _encoded(part: Any, room: Path, rows: list[dict[str, Any]]) -> tuple[Any, list[str]]:
    run = tiny_run(room)
    made = part.encode(rows=as_dataset(rows), tokenizer=tiny_tokenizer(), run=run, schema="tokens")
    require(isinstance(made, Encoded), f"encode() gives {type(made).__name__}, not Encoded")
    require(made.schema == "tokens", f"asked for tokens, encode() gives the schema {made.schema}")
    return made.dataset, run.reporter.lines + run.reporter.warnings


def _shapes_taken(part: Any, room: Path) -> dict[str, Any]:
    taken: dict[str, Any] = {}
    refused: list[str] = []
    if "tokens" not in part.produces:
        return taken
    for shape, rows in ROWS.items():
        try:
            taken[shape], said = _encoded(part, room, rows)
        except LoraplugError as error:
            refused.append(f"{shape}: {error.what}")
            continue
        whole = sum(len(str(row).split()) for row in taken[shape]["row"]) >= len(rows)
        require(whole or said, f"{shape}: rows were dropped without a report")
    require(any(len(encoded) for encoded in taken.values()), f"takes no shape of rows ({'; '.join(refused)})")
    return {shape: encoded for shape, encoded in taken.items() if len(encoded)}


def _labels_are_exact(part: Any, room: Path) -> None:
    known = set(range(len(tiny_tokenizer())))
    for shape, encoded in _shapes_taken(part, room).items():
        missing = {"input_ids", "labels", "row"} - set(encoded.column_names)
        require(not missing, f"{shape}: lacks the columns {', '.join(sorted(missing))}")
        for row in encoded:
            ids, labels = row["input_ids"], row["labels"]
            require(len(ids) == len(labels) > 0, f"{shape}: {len(ids)} tokens, {len(labels)} labels")
            require(set(ids) <= known, f"{shape}: a token the tokenizer does not have")
            odd = [at for at, (id_, label) in enumerate(zip(ids, labels, strict=True)) if label not in (-100, id_)]
            require(not odd, f"{shape}: the label at {odd[:1]} is neither -100 nor its token")
            require(any(label != -100 for label in labels), f"{shape}: a row has no trained token")
            _weights_are_sound(row.get("token_weights"), labels, shape)
            require(
                sum(row.get("seq_lengths") or [len(ids)]) == len(ids),
                f"{shape}: seq_lengths do not add up to the number of tokens",
            )
            require(isinstance(row["row"], list), f"{shape}: `row` is not a list of row ids")


def _weights_are_sound(weights: Any, labels: list[int], shape: str) -> None:
    """Weights, where there are some, are those of a loss, and 0 for the very tokens that are not trained."""
    if weights is None:
        return
    require(len(weights) == len(labels), f"{shape}: {len(weights)} token_weights, {len(labels)} labels")
    require(
        all(0 <= weight < math.inf for weight in weights), f"{shape}: a token's weight is not a number of at least 0"
    )
    odd = [at for at, (w, label) in enumerate(zip(weights, labels, strict=True)) if (w == 0) != (label == -100)]
    require(not odd, f"{shape}: label and weight at {odd[:1]} disagree on whether the token is trained")


def _untrained_stays_untrained(part: Any, room: Path) -> None:
    said = ("what is one?", "zebra"), ("and two?", "it is two")
    messages = [{"role": who, "content": text} for pair in said for who, text in zip(_SPEAKERS, pair, strict=True)]
    messages[1]["weight"] = 0  # type: ignore[assignment]
    if "tokens" not in part.produces:
        return
    try:
        encoded, _ = _encoded(part, room, [{"messages": messages}])
    except LoraplugError:
        return
    for row in encoded:
        trained = tiny_tokenizer().decode([label for label in row["labels"] if label != -100])
        require("zebra" not in trained, "messages: a turn with weight = 0 is trained")


def _encodes_alike(part: Any, room: Path) -> None:
    for shape, encoded in _shapes_taken(part, room / "one").items():
        again, _ = _encoded(part, room / "two", ROWS[shape])
        require(encoded.to_list() == again.to_list(), f"{shape}: encoded twice, the rows differ")


def _bad_rows_are_told(part: Any, room: Path) -> None:
    for shape in _shapes_taken(part, room):
        bad, whole = _BAD_ROWS[shape], ROWS[shape]
        try:
            encoded, said = _encoded(part, room, [*whole, bad])
        except LoraplugError:
            continue
        except Exception as error:
            raise CheckError(f"{shape}: {bad} raises {type(error).__name__} ({error})") from error
        left = sum(len(row) for row in encoded["row"])
        require(left <= len(whole) and said, f"{shape}: {bad} is neither refused nor reported as dropped")


SOURCE_CHECKS: dict[str, Callable[[Any, Path], None]] = {
    "rows have a known shape": _rows_have_a_shape,
    "loaded twice, the same rows": _same_rows_twice,
}
FORMATTER_CHECKS: dict[str, Callable[[Any, Path], None]] = {
    "labels are exact": _labels_are_exact,
    "weight = 0 is respected": _untrained_stays_untrained,
    "encoded twice, the same tokens": _encodes_alike,
    "bad rows are refused or counted": _bad_rows_are_told,
}
