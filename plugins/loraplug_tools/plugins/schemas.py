"""Encoded rows of every schema: what trainers are given, and what formatters that make others than tokens must give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loraplug import SCHEMAS, Encoded, LoraplugError, token_sequences
from loraplug.testing import tiny_run, tiny_tokenizer
from loraplug_tools.plugins.conformance import require
from loraplug_tools.plugins.row_checks import as_dataset

_SAID = [(f"what is {n} and one?", f" it is {n + 1}", " no idea") for n in range(4)]


def _talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=False)]


JUDGED: dict[str, list[list[dict[str, Any]]]] = {
    "pairs": [
        [{"prompt": ask, "chosen": good, "rejected": bad} for ask, good, bad in _SAID],
        [
            {"prompt": _talk(ask), "chosen": _talk(ask, good)[1:], "rejected": _talk(ask, bad)[1:]}
            for ask, good, bad in _SAID
        ],
    ],
    "labelled": [
        [{"prompt": ask, "completion": good, "label": n % 2 == 0} for n, (ask, good, _) in enumerate(_SAID)],
        [
            {"prompt": _talk(ask), "completion": _talk(ask, good)[1:], "label": n % 2 == 0}
            for n, (ask, good, _) in enumerate(_SAID)
        ],
    ],
    "rollouts": [
        [
            {"prompt_ids": [5, 6, 7], "completion_ids": [8, 9 + n], "old_log_probs": [-1.0, -0.5], "advantage": 1.0 - n,
             "group": "a"}
            for n in range(4)
        ],
    ],
}  # fmt: skip
"""Sound rows that judge answers, by the schema they are encoded into: as texts, and as messages."""


def training_rows(schema: str, *, trained: bool = True) -> Encoded:
    """Four encoded rows of a schema; without `trained` no token has a label.

    Raises:
        CheckError: the schema is none that is known, so that no rows can be made.
    """
    require(schema in SCHEMAS, f"consumes rows of the schema {schema}, of which none are known here")
    tokenizer = tiny_tokenizer()
    rows = []
    for n, texts in enumerate(_SAID):
        prompt, good, bad = (tokenizer(text)["input_ids"] for text in texts)
        labels = [(ids if trained else [-100] * len(ids)) for ids in (good, bad)]
        rows.append({
            "tokens": {"input_ids": prompt + good, "labels": [-100] * len(prompt) + labels[0]},
            "pairs": {"prompt_ids": prompt, "chosen_ids": good, "chosen_labels": labels[0], "rejected_ids": bad,
                      "rejected_labels": labels[1]},
            "labelled": {"prompt_ids": prompt, "completion_ids": good, "completion_labels": labels[0],
                         "label": n % 2 == 0},
            "rollouts": {"prompt_ids": prompt, "completion_ids": good, "old_log_probs": [-1.0] * len(good),
                         "advantage": 1.0 - n, "group": "a"},
        }[schema] | {"row": [f"row {n}"]})  # fmt: skip
    return Encoded(as_dataset(rows), schema)


def schemas_are_kept(part: Any, room: Path) -> None:
    """What a formatter makes beside tokens has the columns of its schema, labels that are tokens; twice alike."""
    for schema in sorted(part.produces & JUDGED.keys()):
        made, refused = [], []
        for at, rows in enumerate(JUDGED[schema]):
            try:
                made.append([_encoded(part, room / f"{schema}-{at}-{again}", rows, schema) for again in range(2)])
            except LoraplugError as error:
                refused.append(error.what)
        require(made, f"{schema}: takes neither texts nor messages ({'; '.join(refused)})")
        for first, second in made:
            missing = sorted(SCHEMAS[schema].columns.keys() - set(first.column_names))
            require(not missing, f"{schema}: lacks the columns {', '.join(missing)}")
            require(first.to_list() == second.to_list(), f"{schema}: encoded twice, the rows differ")
            for row in first:
                _is_sound(schema, row)


def _encoded(part: Any, room: Path, rows: list[dict[str, Any]], schema: str) -> Any:
    made = part.encode(rows=as_dataset(rows), tokenizer=tiny_tokenizer(), run=tiny_run(room), schema=schema)
    require(isinstance(made, Encoded), f"encode() gives {type(made).__name__}, not Encoded")
    require(made.schema == schema, f"asked for {schema}, encode() gives the schema {made.schema}")
    return made.dataset


def _is_sound(schema: str, row: dict[str, Any]) -> None:
    require(isinstance(row["row"], list), f"{schema}: `row` is not a list of row ids")
    for one in token_sequences(schema, row):
        require(
            len(one.input_ids) == len(one.labels), f"{schema}: {len(one.input_ids)} tokens, {len(one.labels)} labels"
        )
        odd = [label for id_, label in zip(one.input_ids, one.labels, strict=True) if label not in (-100, id_)]
        require(not odd, f"{schema}: a label is neither -100 nor its token")
        require(one.label_count > 0, f"{schema}: an answer has no trained token")
