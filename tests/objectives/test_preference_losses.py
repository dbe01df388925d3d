"""Each preference loss is trl's own, step by step; what is computed together changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from objectives_help import RATE, PlainBatch, PlainPolicy, labelled_rows, lora_model, pair_rows, plain_losses

from loraplug_train.objectives.base import Objective
from loraplug_train.objectives.cpo import Cpo
from loraplug_train.objectives.dpo import Dpo
from loraplug_train.objectives.kto import Kto, mismatched
from loraplug_train.objectives.orpo import Orpo
from loraplug_train.objectives.simpo import SimPo

SIZE, COUNT = 4, 12
TEXTS = [
    {"prompt": f"the bug {n}", "chosen": " is in" * (1 + n % 3), "rejected": " line" * (1 + n % 4)}
    for n in range(COUNT)
]
DPO: list[dict[str, Any]] = [
    {},
    {"loss_type": "hinge", "beta": 0.5},
    {"loss_type": "ipo"},
    {"loss_type": "robust", "label_smoothing": 0.2},
    {"loss_type": "apo_zero", "beta": 0.3},
    {"loss_type": "apo_down"},
    {"loss_type": ("sigmoid", "sft"), "loss_weights": (0.8, 0.3)},
    {"loss_type": ("apo_zero", "sft", "ipo")},
]


def in_steps(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows in order, so many a step."""
    return [rows[start : start + SIZE] for start in range(0, len(rows), SIZE)]


def trl_options(kind: Any, folder: Path, **options: Any) -> Any:
    """Of one pass in order, without anything that would change a step."""
    return kind(
        output_dir=str(folder), num_train_epochs=1, per_device_train_batch_size=SIZE, learning_rate=RATE,
        lr_scheduler_type="constant", logging_steps=1, report_to="none", save_strategy="no", use_cpu=True, bf16=False,
        gradient_checkpointing=False, max_length=None, train_sampling_strategy="sequential", **options,
    )  # fmt: skip


def told_losses(trainer: Any) -> list[float]:
    """The loss of each step, to the digits that are logged."""
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("options", DPO, ids=lambda options: "-".join(map(str, options.values())) or "default")
def test_dpo_is_that_of_trl(options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    """The same loss at every step from the same adapters."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    kinds = options.get("loss_type", "sigmoid")
    given = {**options, "loss_type": list(kinds) if isinstance(kinds, tuple) else [kinds]}
    if "loss_weights" in given:
        given["loss_weights"] = list(given["loss_weights"])
    trainer = DPOTrainer(
        model=lora_model(tiny_model),
        args=trl_options(DPOConfig, tmp_path, **given),
        train_dataset=Dataset.from_list(TEXTS),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    rows = [{**row, "chosen_labels": row["chosen_ids"], "rejected_labels": row["rejected_ids"]}
            for row in trainer.train_dataset]  # fmt: skip
    ours = plain_losses(Dpo(**options), lora_model(tiny_model), in_steps(rows))
    assert told_losses(trainer) == pytest.approx(ours, rel=1e-4, abs=1e-4)
    assert ours[0] != pytest.approx(ours[-1], rel=1e-3)


EXPERIMENTAL: list[tuple[str, Objective, dict[str, Any]]] = [
    ("cpo", Cpo(), {}),
    ("cpo", Cpo(loss_type="hinge", beta=0.5, cpo_alpha=0.2), {"loss_type": "hinge", "beta": 0.5, "cpo_alpha": 0.2}),
    ("cpo", Cpo(loss_type="ipo"), {"loss_type": "ipo"}),
    ("cpo", Cpo(label_smoothing=0.1), {"label_smoothing": 0.1}),
    ("cpo", SimPo(), {"loss_type": "simpo", "cpo_alpha": 0.0}),
    ("cpo", SimPo(beta=2.0, simpo_gamma=1.0, cpo_alpha=0.5, label_smoothing=0.1),
     {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.5, "label_smoothing": 0.1}),
    ("orpo", Orpo(), {}),
    ("orpo", Orpo(beta=0.7), {"beta": 0.7}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("kind", "objective", "options"), EXPERIMENTAL)
def test_losses_without_a_reference_are_those_of_trl(
    kind: str, objective: Objective, options: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    """trl's trainers that are still experimental take text alone: their own tokens are given to ours."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    made: Any = {"cpo": (CPOTrainer, CPOConfig), "orpo": (ORPOTrainer, ORPOConfig)}[kind]
    args = trl_options(made[1], tmp_path, **options)
    args.max_length = 100
    trainer = made[0](lora_model(tiny_model), args=args, train_dataset=Dataset.from_list(TEXTS),
                      processing_class=tokenizer)  # fmt: skip
    rows = []
    for row in trainer.train_dataset:
        start = len(row["prompt_input_ids"])
        rows.append({"prompt_ids": row["prompt_input_ids"], "row": ["x"]} | {
            f"{side}_{name}": row[f"{side}_{theirs}"][start:]
            for side in ("chosen", "rejected") for name, theirs in (("ids", "input_ids"), ("labels", "labels"))
        })  # fmt: skip
    ours = plain_losses(objective, lora_model(tiny_model), in_steps(rows))
    assert told_losses(trainer) == pytest.approx(ours, rel=1e-4, abs=1e-4)


KTO: list[dict[str, Any]] = [
    {}, {"beta": 0.5, "desirable_weight": 0.7, "undesirable_weight": 1.4}, {"loss_type": "apo_zero_unpaired"},
]  # fmt: skip


@pytest.mark.parametrize("options", KTO, ids=str)
def test_kto_is_that_of_trl(options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    """Partners too: trl's are those of a device's batch, ours those of a step, which is the same here."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    answers = [{"prompt": row["prompt"], "completion": row["chosen"], "label": bool(number % 3)}
               for number, row in enumerate(TEXTS)]  # fmt: skip
    trainer = KTOTrainer(
        model=lora_model(tiny_model),
        args=trl_options(KTOConfig, tmp_path, **options),
        train_dataset=Dataset.from_list(answers),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    rows = [{**row, "completion_labels": row["completion_ids"]} for row in trainer.train_dataset]
    ours = plain_losses(Kto(**options), lora_model(tiny_model), in_steps(rows))
    assert told_losses(trainer) == pytest.approx(ours, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "objective",
    [Dpo(loss_type=("sigmoid", "sft", "ipo")), SimPo(cpo_alpha=0.5), Cpo(), Orpo(), Kto()],
    ids=lambda objective: type(objective).__name__,
)
def test_micro_batches_change_nothing(objective: Objective, tiny_model: Path) -> None:
    """Row by row the loss and the metrics of a step are those of all rows at once."""
    rows = pair_rows(4) if objective.schema == "pairs" else labelled_rows(4)
    policy = PlainPolicy(lora_model(tiny_model))
    torch.manual_seed(2)
    for name, weights in policy.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.1)
    totals, prepared = objective.totals(rows), objective.prepare(rows, policy)
    told: list[tuple[float, dict[str, float]]] = []
    for size in (4, 1):
        loss, metrics = 0.0, dict[str, float]()
        for part in [rows[at : at + size] for at in range(0, len(rows), size)]:
            batch = PlainBatch.of(objective, part)
            reference = policy.reference(batch) if objective.needs_reference else None
            loss += objective.loss(policy, batch, totals, prepared, reference).item()
            for name, value in batch.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + float(value)
        told.append((loss, metrics))
    assert told[0][0] == pytest.approx(told[1][0], rel=1e-5)
    assert told[0][1] == pytest.approx(told[1][1], rel=1e-4)
    assert len(told[0][1]) >= 4


def test_partners_of_a_step_are_the_answers_of_the_rows_before() -> None:
    """Rotated by one, as trl does; a row on its own has none."""
    rows = labelled_rows(3)
    made = mismatched(rows)
    assert [list(part.input_ids) for part in made] == [
        rows[at]["prompt_ids"] + rows[at - 1]["completion_ids"] for at in range(3)
    ]
    assert mismatched(rows[:1]) == []


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (Dpo(loss_type=("sigmoid", "sigmoid")), "names a loss twice"),
        (Dpo(loss_type=()), "names no loss"),
        (Dpo(loss_type=("sigmoid", "sft"), loss_weights=(1.0,)), "1 weights, but loss_type has 2 losses"),
        (Dpo(label_smoothing=0.1), 'used only by the loss "robust"'),
        (Cpo(loss_type="ipo", label_smoothing=0.1), 'used only by the loss "sigmoid"'),
        (Kto(desirable_weight=0.0, undesirable_weight=0.0), "nothing would be trained"),
    ],
)
def test_options_that_do_not_go_together(objective: Any, words: str) -> None:
    """Told by key, before anything is loaded."""
    (problem,) = objective.option_problems()
    assert words in problem.message
    assert problem.path.startswith("trainer.")


@pytest.mark.parametrize("kind", [Dpo, SimPo, Orpo, Cpo, Kto])
@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_beta_is_above_zero(kind: Any, beta: float) -> None:
    """Without it nothing is preferred."""
    with pytest.raises(ValueError, match="beta"):
        kind(beta=beta)
