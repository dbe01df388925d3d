"""The trainer `grpo` on the engine: the same however a step is computed, safe to stop; and what a reference is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from objectives_help import labelled_rows, lora_model, pair_rows
from rollouts_help import rollout_rows

from loraplug import InputError, TrainingResult, token_sequences
from loraplug_train.adapters.lora import Lora
from loraplug_train.preferences import DpoTrainer, GrpoTrainer, KtoTrainer
from stopping import stopped_at

METRICS = ("loss", "kl", "clip_ratio/region_mean", "clip_ratio/low_mean", "clip_ratio/high_mean")


def told(result: TrainingResult) -> list[dict[str, Any]]:
    """What was written of each step."""
    lines = (result.path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:-1]]


@pytest.fixture
def rows(tiny_model: Path) -> list[dict[str, Any]]:
    """Rollouts of the model that the training starts from, as adapters are nothing at first."""
    return rollout_rows(12, lora_model(tiny_model), moved=0.0)


def test_kernels_and_micro_batches_change_nothing(rows: Any, train: Any) -> None:
    """The fast path, the plain one, all rows at once or one at a time: the same losses and metrics.

    Less closely later, as rounding decides whether the ratio of a token is held at the edge.
    """
    options = {"beta": 0.2, "epochs": 3.0, "learning_rate": 3e-2}
    fast = told(train(GrpoTrainer, rows, name="fast", **options))
    for name, more in (("plain", {"kernel": "plain"}), ("one", {"kernel": "plain", "micro_batch": 1})):
        other = told(train(GrpoTrainer, rows, name=name, **options, **more))
        for key in METRICS:
            ours, its = [line[key] for line in other], [line[key] for line in fast]
            assert ours[:2] == pytest.approx(its[:2], rel=1e-4, abs=1e-5)
            assert ours == pytest.approx(its, rel=1e-2, abs=5e-3 if key in ("loss", "kl") else 0.05)
    assert fast[0]["clip_ratio/region_mean"] == 0.0 and fast[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert fast[-1]["clip_ratio/region_mean"] > 0 and fast[-1]["kl"] > 0  # the model has moved since


def test_better_answers_become_likelier_and_worse_ones_less(rows: Any, train: Any, tiny_model: Path) -> None:
    """Summed over the answers, by the log-probability of the tuned model."""
    from objectives_help import PlainBatch, PlainPolicy
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from loraplug_train.objectives.grpo import Grpo

    result = train(GrpoTrainer, rows, epochs=4.0, epsilon=0.9, loss_type="grpo")
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    policy = PlainPolicy(PeftModel.from_pretrained(base, result.path))
    with torch.no_grad():
        batch = PlainBatch.of(Grpo(), rows)
        moved = batch.sums(policy.log_probs(batch) - torch.tensor([v for row in rows for v in row["old_log_probs"]]))
    better = torch.tensor([row["advantage"] > 0 for row in rows])
    assert moved[better].sum() > 1 > -1 > moved[~better].sum()


def test_a_training_that_is_stopped_ends_as_one_that_is_not(rows: Any, train: Any) -> None:
    """Bit for bit, dropout too."""
    options = {"save_every": 1, "beta": 0.1, "lora": Lora(dropout=0.2)}
    whole = train(GrpoTrainer, rows, name="whole", **options)
    with stopped_at(4):
        train(GrpoTrainer, rows, name="stopped", **options)
    resumed = train(GrpoTrainer, rows, name="stopped", **options)
    adapters = [(result.path / "adapter_model.safetensors").read_bytes() for result in (whole, resumed)]
    assert adapters[0] == adapters[1]


def test_memory_that_is_short_halves_what_is_computed_at_once(
    rows: Any, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is computed again in smaller parts, to the same losses."""
    from loraplug_train.engine.policy import PolicyModel

    options = {"kernel": "plain", "micro_batch": 4}
    whole = told(train(GrpoTrainer, rows, name="whole", **options))
    log_probs, failed = PolicyModel.log_probs, []

    def short(self: Any, batch: Any, label_smoothing: float = 0.0) -> Any:
        if len(batch.rows) > 2:
            failed.append(len(batch.rows))
            raise torch.OutOfMemoryError
        return log_probs(self, batch, label_smoothing)

    monkeypatch.setattr(PolicyModel, "log_probs", short)
    halved = told(train(GrpoTrainer, rows, name="halved", **options))
    assert failed == [4]
    assert [line["loss"] for line in halved] == pytest.approx([line["loss"] for line in whole], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", ["dpo", "kto", "grpo"])
def test_the_reference_is_the_model_that_training_starts_from(kind: str, rows: Any, train: Any) -> None:
    """An adapter that is gone on from is part of it, as trl has it: nothing is apart at first, but later."""
    kinds: dict[str, Any] = {"dpo": DpoTrainer, "kto": KtoTrainer, "grpo": GrpoTrainer}
    pairs = pair_rows(12, seed=1)
    first = train(DpoTrainer, pairs, name="first", epochs=4.0)
    given = {"dpo": pairs, "kto": labelled_rows(12), "grpo": rows}[kind]
    more = {"beta": 0.3} if kind == "grpo" else {}
    more |= {"epochs": 4.0, "warmup_ratio": 0.0, "lora": Lora(start_from=first.path)}
    lines = told(train(kinds[kind], given, name="further", **more))
    key = "rewards/margins" if kind == "dpo" else "kl"
    assert lines[0][key] == pytest.approx(0.0, abs=1e-5)
    assert max(line[key] for line in lines) > 1e-3


def test_rows_that_cannot_be_trained_on_stop_it(rows: Any, train: Any) -> None:
    """Named, before the first step."""
    rows[3]["old_log_probs"] = rows[3]["old_log_probs"][:-1]
    with pytest.raises(InputError, match=r"r3: has \d+ old_log_probs for \d+ tokens"):
        train(GrpoTrainer, rows)


def test_it_does_what_every_trainer_must(tmp_path: Path) -> None:
    """The checks that plugin authors have."""
    from loraplug_tools.plugins.conformance import assert_conforms

    assert_conforms(GrpoTrainer(max_steps=2, samples=0, batch_size=2), tmp_path)


# the rows of rollouts, through the formatter


ROW = {"prompt_ids": [5, 6, 7], "completion_ids": [8, 9, 10], "old_log_probs": [-1.0, -0.25, -2.5], "advantage": 0.5,
       "group": "g"}  # fmt: skip


def encoded(rows: list[dict[str, Any]], tmp_path: Path, tiny_model: Path, **options: Any) -> Any:
    """What `chat-template` makes of rollouts."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    from loraplug import load_registry
    from loraplug.testing import tiny_run

    formatter = load_registry().find("formatter", "chat-template")(**options)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return formatter.encode(rows=Dataset.from_list(rows), tokenizer=tokenizer, run=tiny_run(tmp_path),
                            schema="rollouts")  # fmt: skip


def test_token_ids_go_in_as_they_were_drawn(tmp_path: Path, tiny_model: Path) -> None:
    """Nothing is rendered or tokenised again; what is trained is the completion."""
    made = encoded([ROW, {**ROW, "advantage": -0.5}], tmp_path, tiny_model)
    assert made.schema == "rollouts" and made.report["kept"] == 2 and made.report["trained"] == 6
    row = made.dataset[0]
    assert row == {**ROW, "row": ["row 0"]}
    (sequence,) = token_sequences("rollouts", row)
    assert sequence.input_ids == [5, 6, 7, 8, 9, 10] and sequence.labels == [-100, -100, -100, 8, 9, 10]


def test_rollouts_are_never_cut_and_what_is_no_rollout_is_counted(tmp_path: Path, tiny_model: Path) -> None:
    """With the reason; `overlong = "error"` stops."""
    long = {**ROW, "prompt_ids": [5] * 20}
    wrong = [{**ROW, "completion_ids": [8, 9]}, {**ROW, "prompt_ids": [-1, 2]}, {**ROW, "group": None}]
    made = encoded([ROW, long, *wrong], tmp_path, tiny_model, max_length=16, max_dropped=0.9)
    assert len(made.dataset) == 1
    assert set(made.report["lost"]) == {
        "more than 16 tokens, and a rollout is never cut", "prompt_ids is no list of token ids", "group is no name",
        "old_log_probs is no list of a number for each token of the completion",
    }  # fmt: skip
    with pytest.raises(InputError, match="more than 16 tokens"):
        encoded([long], tmp_path, tiny_model, max_length=16, overlong="error")
