"""Recipes with preference trainers: what is wrong with them or their rows is told before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
ROLLOUT = {"prompt_ids": [5], "completion_ids": [6], "old_log_probs": [-1.0], "advantage": 1.0, "group": "g"}
LABELLED = {"prompt": "q", "completion": "a", "label": True}
CHAT = {"instruction": "q", "response": "a"}


def problems(inside: Any, recipe: Path, trainer: str, row: dict[str, Any], *settings: str) -> str:
    """What `recipe check` says."""
    recipe.with_name("rows.jsonl").write_text(f"{json.dumps(row)}\n" * 12, encoding="utf-8")
    text = recipe.read_text(encoding="utf-8").replace('use = "sft"', f'use = "{trainer}"')
    recipe.with_name("other.toml").write_text(text, encoding="utf-8")
    words = [word for setting in settings for word in ("--set", setting)]
    result = inside("recipe", "check", recipe.with_name("other.toml"), *words)
    assert result.returncode == (2 if result.stderr else 0)
    return " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("trainer", "row", "words"),
    [
        ("dpo", CHAT, "these are no preference rows: chosen and rejected missing; columns seen: instruction, response"),
        ("kto", PAIR, "these are no labelled rows: completion and label missing"),
        (
            "grpo",
            PAIR,
            "these are no rollouts: prompt_ids and completion_ids and old_log_probs and advantage and group",
        ),
        ("simpo", LABELLED, "these are no preference rows"),
        ("sft", PAIR, "these are preference rows (chosen, rejected)"),
    ],
)
def test_rows_of_the_wrong_kind_are_told_by_the_first_of_them(
    inside: Any, recipe: Path, trainer: str, row: dict[str, Any], words: str
) -> None:
    """By the columns, before anything is loaded."""
    assert words in problems(inside, recipe, trainer, row)


def test_rows_of_the_right_kind_are_not(inside: Any, recipe: Path) -> None:
    """For each trainer."""
    for trainer, row in (("dpo", PAIR), ("simpo", PAIR), ("orpo", PAIR), ("cpo", PAIR), ("kto", LABELLED),
                         ("grpo", ROLLOUT)):  # fmt: skip
        assert not problems(inside, recipe, trainer, row)


def test_options_are_told_all_at_once(inside: Any, recipe: Path) -> None:
    """Of trainer and formatter."""
    said = problems(
        inside, recipe, "dpo", PAIR, "trainer.label_smoothing=0.1", "formatter.train_on=all", "formatter.packing=true",
        "trainer.loss_weights=[1.0, 2.0]",
    )  # fmt: skip
    for words in (
        'used only by the loss "robust"',
        "would train prompts",
        "cannot be packed",
        "2 weights, but loss_type has 1 losses",
    ):
        assert words in said
    assert "trainer.beta" in problems(inside, recipe, "dpo", PAIR, "trainer.beta=0.0")
    assert "must be at least 2" in problems(inside, recipe, "kto", LABELLED, "trainer.batch_size=1")
    said = problems(inside, recipe, "dpo", PAIR, "formatter.use=text", "formatter.overlong=split",
                    "formatter.packing=true")  # fmt: skip
    assert "a part of one cannot be judged" in said and "cannot be packed" in said
    assert not problems(inside, recipe, "dpo", PAIR, "formatter.use=text")


def test_plan_counts_pairs_as_rows(inside: Any, recipe: Path) -> None:
    """Of each the model reads two sequences, which is told beside the tokens."""
    recipe.with_name("rows.jsonl").write_text(f"{json.dumps(PAIR)}\n" * 12, encoding="utf-8")
    recipe.write_text(recipe.read_text(encoding="utf-8").replace('use = "sft"', 'use = "dpo"'), encoding="utf-8")
    done = inside("plan", recipe, "--no-measure", "--json")
    train = json.loads(done.stdout)["train"]
    assert train["documents"] == train["rows"]
    assert train["sequences"] == 2 * train["rows"]
    said = inside("plan", recipe, "--no-measure").stdout
    assert f"{train['rows']} of {train['rows']}, 0 truncated" in said
    assert f" in {train['sequences']} sequences, " in said
