"""Token weights: the factor of each token's loss, on both kernels, however a step is computed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from sft_rows import encoded

from loraplug import InputError, TrainingResult
from loraplug_train.adapters.lora import Lora

Train = Callable[..., TrainingResult]
KERNELS = ["plain", "auto"]


def weighted(count: int, seed: int = 0, choices: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)) -> Any:
    """Encoded rows whose trained tokens have weights drawn from `choices`, one in ten no weights at all."""
    from datasets import Dataset

    draw = random.Random(seed)
    rows = [dict(row) for row in encoded(count, seed)]
    for at, row in enumerate(rows):
        drawn = [0.0 if label == -100 else draw.choice(choices) for label in row["labels"]]
        row["token_weights"] = None if at % 10 == 9 else drawn
    return Dataset.from_list(rows)


def metrics(result: TrainingResult) -> list[dict[str, float]]:
    """The lines of the steps."""
    lines = (result.path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:-1]]


def reference(model: Any, rows: list[dict[str, Any]]) -> tuple[Any, int]:
    """Weight times torch's own cross entropy, summed, and the number of tokens with a weight above 0."""
    import torch
    from torch.nn.functional import cross_entropy

    total, count = torch.zeros(()), 0
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
        weights = torch.tensor(row["token_weights"] or [float(label != -100) for label in row["labels"]])[1:]
        losses = cross_entropy(model(input_ids=ids).logits[0, :-1], labels, ignore_index=-100, reduction="none")
        total = total + (losses * weights).sum()
        count += int(((labels != -100) & (weights > 0)).sum())
    return total, count


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_a_step_is_that_of_torchs_cross_entropy(kernel: str, micro_batch: int, train: Train, tiny_model: Path) -> None:
    """Loss, norm of the gradient and validation loss of a step of all rows, for weights of 0, 0.5, 1 and 2."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    start = train("start", epochs=1).path
    rows, held = weighted(12), weighted(5, seed=3)
    options = {"kernel": kernel, "micro_batch": micro_batch, "lora": Lora(start_from=start)}
    result = train("a", rows=rows, held=held, batch_size=12, max_steps=1, **options)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, start, is_trainable=True)
    total, count = reference(model, list(rows))
    (total / count).backward()
    norm = sum(float(one.grad.norm()) ** 2 for one in model.parameters() if one.grad is not None) ** 0.5
    (step,) = metrics(result)
    assert step["loss"] == pytest.approx(float(total) / count, rel=1e-5)
    assert step["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert result.figures["trained_tokens"] == count
    with torch.no_grad():
        total, count = reference(model, list(held))
    assert result.figures["validation_loss_before"] == pytest.approx(float(total) / count, rel=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_weights_of_one_change_no_bit(kernel: str, train: Train) -> None:
    """A column of ones, and a column of zeros and ones, give the losses of rows without any."""
    rows = encoded(12)
    ones = rows.add_column("token_weights", [[float(label != -100) for label in row["labels"]] for row in rows])
    bare = rows.add_column("token_weights", [[1.0] * len(row["labels"]) for row in rows])
    plain = train("plain", rows=rows, held=rows, kernel=kernel)
    for name, given in (("ones", ones), ("bare", bare)):
        other = train(name, rows=given, held=given, kernel=kernel)
        assert [line["loss"] for line in metrics(other)] == [line["loss"] for line in metrics(plain)]
        assert other.figures["validation_loss_after"] == plain.figures["validation_loss_after"]


def test_a_weight_of_zero_is_a_token_that_is_not_trained(train: Train) -> None:
    """It counts for nothing: rows of such tokens give the very steps that rows with label -100 there give."""
    rows = encoded(12)
    cut = [[0.0 if at % 3 else 1.0 for at, _ in enumerate(row["labels"])] for row in rows]
    labels = [
        [label if weight else -100 for label, weight in zip(row["labels"], weights, strict=True)]
        for row, weights in zip(rows, cut, strict=True)
    ]
    by_weight = train("weights", rows=rows.add_column("token_weights", cut))
    by_label = train("labels", rows=rows.remove_columns("labels").add_column("labels", labels))
    assert [line["loss"] for line in metrics(by_weight)] == [line["loss"] for line in metrics(by_label)]
    assert by_weight.figures["trained_tokens"] == by_label.figures["trained_tokens"]


def test_half_the_weight_is_half_the_gradient(train: Train) -> None:
    """The divisor stays what it was, so weights of 0.5 halve loss and gradient."""
    rows = encoded(12)
    halves = rows.add_column("token_weights", [[0.5] * len(row["labels"]) for row in rows])
    whole, half = (
        metrics(train(name, rows=given, batch_size=12, max_steps=1))[0] for name, given in (("w", rows), ("h", halves))
    )
    assert half["loss"] == whole["loss"] / 2
    assert half["grad_norm"] == pytest.approx(whole["grad_norm"] / 2, rel=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_packed_rows_keep_their_weights(kernel: str, train: Train) -> None:
    """Rows packed into one give the loss and the steps that they give apart, in one micro-batch and in several."""
    from datasets import Dataset

    rows = weighted(8)
    packed = {
        "input_ids": [list(chain(*rows["input_ids"]))],
        "labels": [list(chain(*rows["labels"]))],
        "token_weights": [list(chain(*rows["token_weights"]))],
        "row": [list(chain(*rows["row"]))],
        "seq_lengths": [list(map(len, rows["input_ids"]))],
    }
    options = {"epochs": 3, "kernel": kernel}
    apart = metrics(train("apart", rows=rows, batch_size=8, micro_batch=3, **options))
    together = metrics(train("together", rows=Dataset.from_dict(packed), batch_size=1, **options))
    assert [line["loss"] for line in together] == pytest.approx([line["loss"] for line in apart], rel=1e-5)


def test_large_weights_are_not_taken_for_a_loss_that_ran_away(train: Train) -> None:
    """What a step's loss is judged by has weights of 1 on average, as the loss of guessing has."""
    rows = encoded(12)
    given = rows.add_column(
        "token_weights", [[0.1 if at < 6 else 40.0] * len(row["labels"]) for at, row in enumerate(rows)]
    )
    train("a", rows=given, batch_size=1, epochs=3, learning_rate=1e-4)
    assert not any("loss rises" in line for line in train.reporter.warnings)  # type: ignore[attr-defined]


@pytest.mark.parametrize("bad", [-0.5, float("nan"), float("inf"), None])
def test_weights_that_are_none_are_refused(bad: float | None, train: Train) -> None:
    """Negative, NaN, infinite or null: all such rows are named before anything is computed."""
    rows = [dict(row) for row in weighted(8)]
    for at in (2, 5):
        rows[at]["token_weights"][4] = bad
    from datasets import Dataset

    with pytest.raises(InputError, match=rf"r2: token 4 has the weight {bad}; r5: token 4 has the weight {bad}"):
        train("a", rows=Dataset.from_list(rows))
    with pytest.raises(InputError, match="the validation rows"):
        train("b", held=Dataset.from_list(rows))


def test_too_few_weights_are_refused(train: Train) -> None:
    """A list of another length than the labels."""
    rows = [dict(row) for row in weighted(8)]
    rows[1]["token_weights"] = rows[1]["token_weights"][:-1]
    length = len(rows[1]["labels"])
    from datasets import Dataset

    with pytest.raises(InputError, match=f"r1: {length - 1} weights for {length} labels"):
        train("a", rows=Dataset.from_list(rows))
