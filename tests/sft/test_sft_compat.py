"""What `loraplug_train.compat` relies on in torch, transformers and trl: a failure says what a new version changed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from loraplug_train import compat
from loraplug_train.engine.loop import LoraTrainer

SEE = "see loraplug_train/compat.py"


def test_what_is_overridden_is_listed_and_there() -> None:
    """Every method of the trainer that hides one of trl's or transformers' is listed, and the other way about."""
    from trl import SFTTrainer

    ours = {name for name, value in vars(LoraTrainer).items() if callable(value) and name != "__init__"}
    hiding = {name for name in ours if hasattr(SFTTrainer, name)}
    gone = sorted(compat.OVERRIDDEN.keys() - hiding)
    assert not gone, f"trl's trainer has no {', '.join(gone)} any more: {SEE}"
    assert hiding == compat.OVERRIDDEN.keys(), f"not listed, or hidden by accident in a new version: {SEE}"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("get_batch_samples", ["self", "epoch_iterator", "num_batches", "device"]),
        ("training_step", ["self", "model", "inputs", "num_items_in_batch"]),
        ("compute_loss", ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]),
        ("create_optimizer", ["self", "model"]),
        ("floating_point_ops", ["self", "inputs"]),
        ("get_train_dataloader", ["self"]),
        ("_prepare_inputs", ["self", "inputs"]),
    ],
)
def test_the_parameters_are_those_of_before(name: str, parameters: list[str]) -> None:
    """Those that we pass on or are given."""
    from transformers import Trainer
    from trl import SFTTrainer

    owner = Trainer if name == "training_step" else SFTTrainer  # trl's passes on whatever it is given
    found = [*inspect.signature(getattr(owner, name)).parameters]
    assert found == parameters, f"{name} takes {found} now: {SEE}"


def test_the_loop_calls_what_is_overridden(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as often as is said of it, in a run of two steps of two micro-batches."""
    called: dict[str, int] = {}
    for name in compat.OVERRIDDEN:
        own = getattr(LoraTrainer, name)

        def counted(self: Any, *args: Any, own: Any = own, name: str = name, **options: Any) -> Any:
            called[name] = called.get(name, 0) + 1
            return own(self, *args, **options)

        monkeypatch.setattr(LoraTrainer, name, counted)
    train(max_steps=2, kernel="plain", micro_batch=2)
    once = dict.fromkeys(["_init_training_state", "_prepare_for_training", "get_train_dataloader"], 1)
    per_step = dict.fromkeys(["get_batch_samples", "training_step", "floating_point_ops"], 2)
    made = called.pop("create_optimizer", 0)
    assert called == {**once, **per_step, "compute_loss": 4}, f"the trainer's loop has changed: {SEE}"
    assert made >= 1


def test_a_schedule_keeps_its_state_under_these_names() -> None:
    """What a resumed run sets is what a schedule reads."""
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=10)
    assert set(compat.SCHEDULE) <= schedule.state_dict().keys(), f"a schedule's state has other keys: {SEE}"
    optimizer.step()
    schedule.step()
    state = schedule.state_dict()
    assert (state["last_epoch"], state["_step_count"]) == (1, 2) and state["_last_lr"] == schedule.get_last_lr()


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
