"""The preference trainers on the engine: trl's losses, the same however a step is computed, and what they are for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from objectives_help import labelled_rows, pair_rows

from loraplug import TrainingResult
from loraplug_train.preferences import CpoTrainer, DpoTrainer, KtoTrainer, OrpoTrainer, SimPoTrainer
from stopping import stopped_at

TRAINERS = {"dpo": DpoTrainer, "simpo": SimPoTrainer, "orpo": OrpoTrainer, "cpo": CpoTrainer, "kto": KtoTrainer}


def told(result: TrainingResult) -> list[dict[str, Any]]:
    """What was written of each step."""
    lines = (result.path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:-1]]


def rows_for(kind: str, count: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of its schema."""
    return labelled_rows(count, seed) if kind == "kto" else pair_rows(count, seed)


@pytest.mark.parametrize("kind", TRAINERS)
def test_kernels_and_micro_batches_change_nothing(kind: str, train: Any) -> None:
    """The fast path, the plain one, all rows at once or one at a time: the same losses and metrics."""
    rows = rows_for(kind)
    fast = told(train(TRAINERS[kind], rows, name="fast"))
    for name, options in (("plain", {"kernel": "plain"}), ("one", {"kernel": "plain", "micro_batch": 1})):
        other = told(train(TRAINERS[kind], rows, name=name, **options))
        assert [line["loss"] for line in other] == pytest.approx([line["loss"] for line in fast], rel=1e-4)
        for key in fast[0]:
            if "/" in key or key == "kl":
                assert [line[key] for line in other] == pytest.approx([line[key] for line in fast], rel=1e-3, abs=1e-5)
    assert any("/" in key for key in fast[0])


def test_dpo_is_that_of_trl_in_its_order(train: Any, tiny_model: Path, tmp_path: Path) -> None:
    """Given the same tokens, seed and rates, trl's own trainer has the same loss at every step of two passes."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import DPOConfig, DPOTrainer

    texts = [{"prompt": f"the bug {n}", "chosen": " is in" * (1 + n % 3), "rejected": " line" * (1 + n % 4)}
             for n in range(14)]  # fmt: skip
    options = DPOConfig(
        output_dir=str(tmp_path), seed=42, num_train_epochs=2, per_device_train_batch_size=4, learning_rate=1e-2,
        lr_scheduler_type="cosine", warmup_steps=0, max_length=None, logging_steps=1, report_to="none",
        save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    set_seed(42)
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        args=options,
        train_dataset=Dataset.from_list(texts),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    rows = [{**row, "chosen_labels": row["chosen_ids"], "rejected_labels": row["rejected_ids"], "row": [str(at)]}
            for at, row in enumerate(trainer.train_dataset)]  # fmt: skip
    trainer.train()
    theirs = [line for line in trainer.state.log_history if "loss" in line]
    ours = told(train(DpoTrainer, rows, warmup_ratio=0.0))
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-4, abs=1e-4)
    for key in ("rewards/margins", "rewards/accuracies", "logps/chosen"):
        assert [line[key] for line in ours] == pytest.approx([line[key] for line in theirs], rel=1e-3, abs=1e-3)


def test_dpo_raises_the_margin_of_pairs_it_has_not_seen(train: Any) -> None:
    """One token is in every wanted answer and another in every unwanted one."""
    rows = pair_rows(30, seed=3)
    for row in rows:
        for side, token in (("chosen", 11), ("rejected", 12)):
            row[f"{side}_ids"] = row[f"{side}_labels"] = [token, *row[f"{side}_ids"], token]
    result = train(DpoTrainer, rows[:22], rows[22:], epochs=4.0, beta=0.5)
    assert result.figures["validation_loss_after"] < 0.5 < 0.69 < result.figures["validation_loss_before"]
    last = told(result)[-1]
    assert last["rewards/accuracies"] == 1.0
    assert last["rewards/margins"] > 1.0


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_a_training_that_is_stopped_ends_as_one_that_is_not(
    kind: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout too; what the reference said is not asked again."""
    from loraplug_train.adapters.lora import Lora
    from loraplug_train.engine.policy import PolicyModel

    rows, options = rows_for(kind), {"save_every": 1, "lora": Lora(dropout=0.2)}
    whole = train(TRAINERS[kind], rows, name="whole", **options)
    with stopped_at(4):
        train(TRAINERS[kind], rows, name="stopped", **options)
    asked = []
    scored = PolicyModel.scored
    monkeypatch.setattr(PolicyModel, "scored", lambda self, some, **more: asked.append(len(some)) or scored(
        self, some, **more))  # fmt: skip
    resumed = train(TRAINERS[kind], rows, name="stopped", **options)
    adapters = [(result.path / "adapter_model.safetensors").read_bytes() for result in (whole, resumed)]
    assert adapters[0] == adapters[1]
    assert len(rows) not in asked


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_they_do_what_every_trainer_must(kind: str, tmp_path: Path) -> None:
    """The checks that plugin authors have."""
    from loraplug_tools.plugins.conformance import assert_conforms

    assert_conforms(TRAINERS[kind](max_steps=2, samples=0, batch_size=2), tmp_path)
