"""Weights of messages as weights of tokens, packed or not, and what becomes of them further on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_help import answer, system, user
from datasets import Dataset

from loraplug import Conversation, InputError, Run
from loraplug.data.labels import check_labels
from loraplug_chat.formatter import ChatTemplate
from loraplug_chat.mask import Masker
from loraplug_chat.text import Text

ROW = [user("a"), answer("half", weight=0.5), user("b"), answer("none", weight=0), user("c"), answer("whole")]


def rows_of(*conversations: list[dict[str, Any]]) -> Dataset:
    """Messages rows as JSON."""
    return Dataset.from_list([{"messages": json.dumps(messages)} for messages in conversations])


def weighted(tokenizer: Any, row: dict[str, Any]) -> dict[float, str]:
    """Weight to the text of the tokens that have it."""
    found: dict[float, list[int]] = {}
    for token, weight in zip(row["input_ids"], row["token_weights"], strict=True):
        found.setdefault(weight, []).append(token)
    return {weight: tokenizer.decode(ids) for weight, ids in found.items() if weight}


def test_token_weights_stand_beside_the_labels(chatml: Any, run: Run) -> None:
    """A list as long as the labels, 0 where they are -100, the message's weight up to and with the end of its turn."""
    encoded = ChatTemplate(packing=False).encode(rows_of(ROW, [user("x"), answer("y")]), chatml, run).dataset
    assert encoded.column_names == ["input_ids", "labels", "token_weights", "row"]
    assert weighted(chatml, encoded[0]) == {0.5: "half<|im_end|>", 1.0: "whole<|im_end|>"}
    assert weighted(chatml, encoded[1]) == {1.0: "y<|im_end|>"}
    for row in encoded:
        assert len(row["token_weights"]) == len(row["labels"]) == len(row["input_ids"])
        assert [label == -100 for label in row["labels"]] == [weight == 0 for weight in row["token_weights"]]
    assert "1 row weighted" in run.reporter.lines[-1]  # type: ignore[attr-defined]
    again = ChatTemplate(packing=False).encode(rows_of(ROW, [user("x"), answer("y")]), chatml, run).dataset
    assert again[:] == encoded[:]


def test_whole_weights_need_no_column(chatml: Any, run: Run) -> None:
    """0 and 1 are what labels say already, in every mode of training."""
    only = [user("a"), answer("none", weight=0), user("c"), answer("whole", weight=1)]
    encoded = ChatTemplate(packing=False).encode(rows_of(only), chatml, run).dataset
    assert "token_weights" not in encoded.column_names
    assert chatml.decode([label for label in encoded[0]["labels"] if label != -100]) == "whole<|im_end|>"


def test_packs_carry_the_weights(chatml: Any, run: Run) -> None:
    """Document by document those of single rows, the first token of each at 0."""
    talks = [[user(f"ask {n}"), answer(f"say {n} " * n, weight=n / 4)] for n in range(1, 8)]
    single = ChatTemplate(packing=False).encode(rows_of(*talks), chatml, run).dataset
    packed = ChatTemplate(packing=True, max_length=120).encode(rows_of(*talks), chatml, run).dataset
    assert len(packed) < len(single)
    alone = {row["row"][0]: row for row in single}
    for pack in packed:
        at = 0
        for name, length in zip(pack["row"], pack["seq_lengths"], strict=True):
            assert pack["token_weights"][at : at + length] == [0.0, *alone[name]["token_weights"][1:]]
            at += length
        assert at == len(pack["token_weights"])


def test_cut_rows_keep_weights_and_tokens_together(chatml: Any, run: Run) -> None:
    """However over-long rows are cut, the weights are those of the tokens that are left."""
    talk = [system("s"), *(m for n in range(8) for m in (user(f"question {n}"), answer(f"answer {n}", weight=0.25)))]
    for policy in ("truncate-left", "truncate-right"):
        encoded = (
            ChatTemplate(packing=False, max_length=100, overlong=policy).encode(rows_of(talk), chatml, run).dataset
        )
        row = encoded[0]
        assert len(row["input_ids"]) == len(row["token_weights"]) <= 100
        assert [label == -100 for label in row["labels"]] == [weight == 0 for weight in row["token_weights"]]
        assert "answer" in weighted(chatml, row)[0.25]


def test_weights_hold_where_everything_is_trained(chatml: Any) -> None:
    """`train_on = "all"`: the text of a message has its weight, what the template writes 1."""
    encoded = Masker.of(chatml).encode(Conversation("x", ROW), "all")
    pairs = list(zip(encoded.ids, encoded.trained, strict=True))
    found = {weight: chatml.decode([token for token, w in pairs if w == weight]) for weight in (0.5, 0)}
    assert found == {0.5: "half", 0: "none"}


def test_known_shapes_have_the_weights_of_their_rows(chatml: Any) -> None:
    """Rows filled into a shape that was proved before have their own weights, not those it was learnt with."""
    masker = Masker.of(chatml)
    for weight in (0.5, 1, 0.25, 2.0, 1):
        row = masker.encode(Conversation("x", [user("a"), answer("b", weight=weight)]))
        assert {*row.trained} == {0, weight}


def test_a_mask_on_a_text_row_refuses_it(chatml: Any, run: Run) -> None:
    """Text has no messages to put a weight on; a row that is not to be trained is left out, and told."""
    rows = Dataset.from_list([{"text": f"text {n}", "train": n != 3} for n in range(8)])
    encoded = Text(packing=False).encode(rows, chatml, run).dataset
    assert len(encoded) == 7
    assert '"train" on the whole row' in run.reporter.warnings[-1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("label", [True, False], "whether an answer is wanted"),
        ("label", [1, 0], "whether an answer is wanted"),
        ("label", ["true", "false"], "whether an answer is wanted"),
        ("score", [0.5, 4.0], "how good an answer is"),
        ("reward", [1, 2], "how good an answer is"),
        ("chosen", ["a", "b"], "a chosen and a rejected answer"),
        ("rejected", ["a", None], "a chosen and a rejected answer"),
        ("score_chosen", [1.0, 2.0], "a chosen and a rejected answer"),
    ],
)
def test_rows_that_are_judged_are_refused(
    inside: Any, recipe: Path, column: str, values: list[Any], words: str
) -> None:
    """With what the column means and what to do; the run has not begun."""
    lines = [json.dumps({"instruction": "q", "response": "a", column: value}) for value in values]
    (recipe.parent / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    result = inside("run", recipe, "--until", "formatter")
    assert result.returncode == 2
    said = " ".join(result.stderr.split())
    assert f'the column "{column}"' in said
    assert words in said
    assert "rename" in said


@pytest.mark.parametrize(
    ("column", "values"), [("label", [True, True]), ("label", ["poem", "song"]), ("score", [None, "high"])]
)
def test_columns_that_judge_nothing_are_only_named(inside: Any, recipe: Path, column: str, values: list[Any]) -> None:
    """A class, a word, or the same wish for all rows."""
    lines = [json.dumps({"instruction": "q", "response": "a", column: value}) for value in values] * 6
    (recipe.parent / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    result = inside("run", recipe, "--until", "formatter")
    assert result.returncode == 0, result.stderr
    assert f"columns that are not used: {column}" in " ".join((result.stderr + result.stdout).split())


def test_preview_tells_weights(inside: Any, recipe: Path) -> None:
    """In JSON beside the tokens that have one, and in the line above each row."""
    (recipe.parent / "rows.jsonl").write_text(json.dumps({"messages": ROW}) + "\n", encoding="utf-8")
    result = inside("preview", recipe, "--json", "--set", "formatter.packing=false")
    (row,) = json.loads(result.stdout)
    assert {token["weight"] for token in row["tokens"] if "weight" in token} == {0.5}
    assert "some weighted 0.5" in inside("preview", recipe).stdout


def test_a_trainer_says_what_columns_it_heeds(inside: Any, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that it names are let through; weights that it does not name are refused before there is a model."""
    rows = Dataset.from_list([{"text": "t", "score": 1.5}])
    check_labels(rows, frozenset({"score"}), "dataset", "the trainer mine")
    with pytest.raises(InputError, match="the trainer mine does not use"):
        check_labels(rows, frozenset({"label"}), "dataset", "the trainer mine")
    (recipe.parent / "rows.jsonl").write_text(f"{json.dumps({'messages': ROW})}\n" * 6, encoding="utf-8")
    assert inside("run", recipe, "--until", "formatter").returncode == 0
    monkeypatch.setattr("loraplug_train.trainer.Sft.columns", frozenset())
    result = inside("run", recipe, "--until", "formatter")
    assert result.returncode == 2
    assert "weights, which the trainer sft does not use" in " ".join(result.stderr.split())


def test_validation_rows_are_held_to_the_same(inside: Any, recipe: Path) -> None:
    """Labels in a file of validation rows are refused as those of training rows are; nothing is said twice."""
    line = {"instruction": "q", "response": "a", "source": "web"}
    (recipe.parent / "rows.jsonl").write_text(f"{json.dumps(line)}\n" * 6, encoding="utf-8")
    (recipe.parent / "held.jsonl").write_text(json.dumps(line | {"reward": 0.5}) + "\n", encoding="utf-8")
    text = recipe.read_text(encoding="utf-8").replace("rows = 3", 'path = "held.jsonl"')
    recipe.write_text(text, encoding="utf-8")
    result = inside("run", recipe, "--until", "formatter")
    assert result.returncode == 2
    assert 'validation: the column "reward"' in " ".join(result.stderr.split())
    (recipe.parent / "held.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    result = inside("run", recipe, "--until", "formatter", "--fresh")
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count("columns that are not used: source") == 1
