"""What `loraplug_train.compat` relies on in torch, transformers and trl: a failure says what a new version changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from loraplug_train import compat

SEE = "see loraplug_train/compat.py"


def test_nothing_of_a_trainer_is_overridden() -> None:
    """The engine is no subclass of trl's or transformers' trainers, nor of a callback; it calls public functions."""
    import loraplug_train.engine.engine

    files = Path(loraplug_train.engine.engine.__file__).parent.parent.rglob("*.py")
    bases = {
        base.split(".")[-1]
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("class ") and "(" in line
        for base in line[line.index("(") + 1 : line.rindex(")")].split(", ")
    }
    assert not bases & {"SFTTrainer", "TrainerCallback", "Accelerator"}, sorted(bases)


def test_a_schedule_goes_on_from_its_public_state() -> None:
    """What `state_dict` gives is JSON, and `load_state_dict` takes it: the rates that follow are the same."""
    from transformers import get_scheduler

    def made() -> Any:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=10)

    optimizer, schedule = made()
    for _ in range(4):
        optimizer.step()
        schedule.step()
    again, resumed = made()
    resumed.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    again.load_state_dict(optimizer.state_dict())
    for one, other in ((optimizer, schedule), (again, resumed)):
        one.step()
        other.step()
    assert resumed.get_last_lr() == schedule.get_last_lr()
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_one_dnn_multiplies() -> None:
    """As `linear`, also with a transposed weight and in bfloat16."""
    if not compat.HAS_ONEDNN:
        pytest.skip("this torch has no oneDNN")
    x, weight, bias = torch.randn(5, 8), torch.randn(3, 8), torch.randn(3)
    assert torch.allclose(compat.linear(x, weight, bias), functional.linear(x, weight, bias), atol=1e-5), SEE
    turned = weight.t().contiguous().t()
    assert torch.allclose(compat.linear(x, turned, None), x @ weight.t(), atol=1e-5), SEE
    half = compat.linear(x.bfloat16(), weight.bfloat16(), None)
    assert half.dtype == torch.bfloat16 and torch.allclose(half.float(), x @ weight.t(), atol=0.2), SEE


def test_log_softmax_is_in_place() -> None:
    """The same memory, the values of `torch.log_softmax`."""
    logits = torch.randn(4, 50)
    wanted, at = torch.log_softmax(logits, -1), logits.data_ptr()
    assert compat.log_softmax_(logits).data_ptr() == at and torch.allclose(logits, wanted), SEE


def test_attention_and_its_backward() -> None:
    """As autograd has it through `scaled_dot_product_attention`; a log-sum-exp for each token of each head."""
    q, k, v = (torch.randn(1, 2, 7, 4, requires_grad=True) for _ in range(3))
    wanted = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)
    gradient = torch.randn_like(wanted)
    wanted.backward(gradient)
    with torch.no_grad():
        out, sums = compat.attention((q, k, v), 0.5)
        found = compat.attention_backward(gradient, q, k, v, out, sums, 0.5)
    assert torch.allclose(out, wanted, atol=1e-5) and sums.numel() == 14, SEE
    for part, of in zip(found, (q, k, v), strict=True):
        assert of.grad is not None and torch.allclose(part, of.grad, atol=1e-5), SEE


def test_a_model_names_its_blocks(tiny_model: Path) -> None:
    """The classes that FSDP2 shards one by one, and DeepSpeed too."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    blocks = {type(block).__name__ for block in model.model.layers}
    assert blocks == set(compat.undivided(model)), f"models name their blocks otherwise: {SEE}"
    assert compat.undivided(torch.nn.Linear(1, 1)) == []
