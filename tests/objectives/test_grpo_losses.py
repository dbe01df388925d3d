"""The loss of grpo is trl's own on the same tensors, with its gradients; micro-batches change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from objectives_help import PlainBatch, PlainPolicy, lora_model
from rollouts_help import rollout_rows

from loraplug_train.objectives.grpo import Grpo

OPTIONS: list[dict[str, Any]] = [
    {},
    {"loss_type": "grpo", "epsilon": 0.1, "epsilon_high": 0.28},
    {"loss_type": "dr_grpo", "max_completion_length": 40},
    {"importance_sampling_level": "sequence", "loss_type": "grpo", "epsilon": 0.03},
    {"beta": 0.3},
    {"beta": 0.3, "use_bias_correction_kl": False, "loss_type": "grpo"},
]


def moved_model(folder: Path) -> Any:
    """The tiny model with adapters that change it."""
    model = lora_model(folder)
    torch.manual_seed(2)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.1)
    return model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Those of the adapters, and none left behind."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rollouts as trl has them: prompts padded on the left, completions on the right."""

    def side(name: str, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(len(row[name]) for row in rows)
        values, mask = torch.zeros(len(rows), longest), torch.zeros(len(rows), longest, dtype=torch.long)
        for at, row in enumerate(rows):
            where = slice(longest - len(row[name]), longest) if left else slice(0, len(row[name]))
            values[at, where] = torch.tensor(row[name], dtype=torch.float32)
            mask[at, where] = 1
        return values, mask

    (prompts, before), (completions, answers) = side("prompt_ids", left=True), side("completion_ids", left=False)
    return {
        "prompt_ids": prompts.long(), "prompt_mask": before, "completion_ids": completions.long(),
        "completion_mask": answers, "advantages": torch.tensor([row["advantage"] for row in rows]),
        "old_per_token_logps": side("old_log_probs", left=False)[0], "num_items_in_batch": answers.sum(),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_loss_and_gradients_are_those_of_trl(options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    """Whatever the aggregation, the clipping, the level of the ratios and the divergence; some ratios are clipped."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    model = moved_model(tiny_model)
    rows = rollout_rows(6, model)
    given = {"max_completion_length": 64, **options}
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=6, num_generations=2, use_cpu=True, bf16=False,
            report_to="none", gradient_checkpointing=False, **given,
        ),
        train_dataset=Dataset.from_list([{"prompt": "the bug"}] * 6),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    objective = Grpo(**options)
    policy = PlainPolicy(trainer.model.train())
    batch = PlainBatch.of(objective, rows)
    reference = policy.reference(batch) if objective.needs_reference else None
    ours = objective.loss(policy, batch, objective.totals(rows), None, reference)
    ours.backward()
    mine = gradients(trainer.model)

    inputs = padded(rows)
    if reference is not None:
        told = torch.zeros_like(inputs["old_per_token_logps"])
        told[inputs["completion_mask"].bool()] = reference
        inputs["ref_per_token_logps"] = told
    theirs = trainer.compute_loss(trainer.model, inputs)
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4, abs=1e-6)
    assert abs(ours.item()) > 1e-3
    their_gradients = gradients(trainer.model)
    assert mine.keys() == their_gradients.keys() and any(value.abs().max() > 1e-3 for value in mine.values())
    for name, value in mine.items():
        assert torch.allclose(value, their_gradients[name], rtol=1e-4, atol=1e-6), name
    assert 0 < float(batch.metrics["clip_ratio/region_mean"]) < 1


def test_defaults_are_those_of_trl() -> None:
    """By name."""
    from attrs import fields
    from trl import GRPOConfig

    theirs = GRPOConfig.__dataclass_fields__
    for one in fields(Grpo):
        assert one.default == theirs[one.name].default, one.name


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_micro_batches_change_nothing(options: dict[str, Any], tiny_model: Path) -> None:
    """Row by row the loss and the metrics of a step are those of all rows at once."""
    objective = Grpo(**options)
    policy = PlainPolicy(moved_model(tiny_model))
    rows = rollout_rows(4, policy.module)
    totals = objective.totals(rows)
    told: list[tuple[float, dict[str, float]]] = []
    for size in (4, 1):
        loss, metrics = 0.0, dict[str, float]()
        for part in [rows[at : at + size] for at in range(0, len(rows), size)]:
            batch = PlainBatch.of(objective, part)
            reference = policy.reference(batch) if objective.needs_reference else None
            loss += objective.loss(policy, batch, totals, None, reference).item()
            for name, value in batch.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + float(value)
        told.append((loss, metrics))
    assert told[0][0] == pytest.approx(told[1][0], rel=1e-4)
    assert told[0][1] == pytest.approx(told[1][1], rel=1e-4)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"old_log_probs": [-1.0]}, "has 1 old_log_probs for"),
        ({"completion_ids": []}, "has no completion"),
        ({"prompt_ids": []}, "has no prompt"),
        ({"advantage": float("nan")}, "has the advantage nan"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_told(changed: dict[str, Any], words: str, tiny_model: Path) -> None:
    """Before the first step."""
    (row,) = rollout_rows(1, lora_model(tiny_model))
    assert Grpo().fault(row) is None
    assert words in str(Grpo().fault({**row, **changed}))
    high = {**row, "old_log_probs": [0.5] * len(row["old_log_probs"])}
    assert "no logarithms of probabilities" in str(Grpo().fault(high))


def test_options_that_do_not_go_together() -> None:
    """Told by key."""
    (problem,) = Grpo(max_completion_length=100).option_problems()
    assert problem.path == "trainer.max_completion_length"
    assert not [*Grpo(loss_type="dr_grpo", max_completion_length=100).option_problems()]
