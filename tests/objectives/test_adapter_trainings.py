"""Trainings of other things than LoRA: equal to plain loops, safe to stop, exported, declined by the fast kernel."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from objectives_help import labelled_rows, pair_rows

from loraplug_train.adapters.full import Full
from loraplug_train.adapters.peft_method import PeftMethod
from loraplug_train.engine.schedule import build_schedule
from loraplug_train.preferences import DpoTrainer, KtoTrainer
from loraplug_train.trainer import Sft
from stopping import stopped_at

IA3 = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
PLAIN = {"warmup_ratio": 0.0, "scheduler": "constant", "max_grad_norm": 1e9}


def token_rows(count: int) -> list[dict[str, Any]]:
    """Rows of random words, trained from the fourth on."""
    rows = [row["prompt_ids"] + row["chosen_ids"] for row in pair_rows(count, seed=5)]
    return [{"input_ids": ids, "labels": [-100] * 3 + ids[3:], "row": [f"r{at}"]} for at, ids in enumerate(rows)]


def told(result: Any) -> list[float]:
    """The loss of each step."""
    lines = (result.path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines[:-1]]


def plain_loop(model: Any, rows: list[dict[str, Any]], rate: float) -> list[float]:
    """Two passes of transformers' own logits and torch's AdamW, in the order of the engine."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    losses = []
    for step in build_schedule([1] * len(rows), 42, 2.0, batch_size=4).steps:
        total = sum(label != -100 for at in step for label in rows[at]["labels"][1:])
        loss = torch.zeros(())
        for at in step:
            ids, labels = (torch.tensor([rows[at][name]]) for name in ("input_ids", "labels"))
            out = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            loss = loss + torch.nn.functional.cross_entropy(out[0], labels[0, 1:], reduction="sum") / total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", ["ia3", "full"])
def test_losses_are_those_of_a_plain_loop(kind: str, train: Any, tiny_model: Path) -> None:
    """Of peft's IA3, and of all weights."""
    from transformers import AutoModelForCausalLM

    rows, rate = token_rows(14), 5e-2 if kind == "ia3" else 1e-3
    part = PeftMethod(method="ia3", options=IA3) if kind == "ia3" else Full()
    result = train(Sft, rows, adapter=part, learning_rate=rate, **PLAIN)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    losses = plain_loop(part.attach(model).train(), rows, rate)
    assert told(result) == pytest.approx(losses, rel=1e-4)
    untrained = plain_loop(part.attach(AutoModelForCausalLM.from_pretrained(tiny_model)).train(), rows, 0.0)
    assert max(abs(one - other) for one, other in zip(losses, untrained, strict=True)) > 1e-3
    assert result.kind == ("adapter" if kind == "ia3" else "model")
    assert (result.path / ("adapter_config.json" if kind == "ia3" else "config.json")).is_file()


@pytest.mark.parametrize("kind", [DpoTrainer, KtoTrainer])
def test_a_whole_model_is_compared_with_a_frozen_copy(kind: Any, train: Any) -> None:
    """The first loss is that of a model that is its reference; it falls as the model leaves it."""
    rows = pair_rows(12) if kind is DpoTrainer else labelled_rows(12)
    losses = told(train(kind, rows, adapter=Full(), learning_rate=1e-3, warmup_ratio=0.0))
    assert losses[0] == pytest.approx(0.6931 if kind is DpoTrainer else 0.5, abs=1e-3)
    assert losses[-1] < losses[0] - 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_whole_model_that_is_stopped_ends_as_one_that_is_not(dtype: str, train: Any) -> None:
    """Masters of float32 are what checkpoints hold."""
    rows, options = token_rows(12), {"save_every": 1, "adapter": Full(), "learning_rate": 1e-4, "dtype": dtype}
    whole = train(Sft, rows, name="whole", **options)
    with stopped_at(4):
        train(Sft, rows, name="stopped", **options)
    resumed = train(Sft, rows, name="stopped", **options)
    digests = [hashlib.sha256((result.path / "model.safetensors").read_bytes()).digest() for result in (whole, resumed)]
    assert digests[0] == digests[1]


def test_a_recipe_with_a_whole_model_ends_in_a_model(inside: Any, recipe: Path, tmp_path: Path) -> None:
    """Told before training what does not take one; then a merged folder is made of it."""
    whole = 'samples = 0\n[trainer.adapter]\nuse = "full"\n'
    text = recipe.read_text(encoding="utf-8").replace("samples = 0\n", whole)
    recipe.write_text(text, encoding="utf-8")
    refused = inside("recipe", "check", recipe)
    assert refused.returncode == 2
    assert "adapter exports an adapter, but the trainer sft makes a whole model" in " ".join(refused.stderr.split())
    recipe.write_text(text.replace('[[exporter]]\nuse = "adapter"\n', ""), encoding="utf-8")
    done = inside("run", recipe)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/merged/tiny/model.safetensors").is_file()


def test_two_ways_to_say_what_is_trained_are_refused(inside: Any, recipe: Path) -> None:
    """And a method that cannot be merged, beside an exporter that merges."""
    with recipe.open("a", encoding="utf-8") as file:
        file.write('[trainer.lora]\nr = 4\n[trainer.adapter]\nuse = "peft"\nmethod = "prompt_tuning"\n')
    told = " ".join(inside("recipe", "check", recipe).stderr.split())
    assert "both say what is trained" in told
    assert "prompt_tuning changes no weights" in told


def test_the_fast_kernel_declines_what_it_does_not_know(tiny_model: Path) -> None:
    """And says why; the plain one computes it."""
    from transformers import AutoModelForCausalLM

    from loraplug_train.cpu import kernel

    for part, words in (
        (Full(), "the model itself is trained"),
        (PeftMethod(method="ia3", options=IA3), "adapters of the kind IA3"),
        (PeftMethod(method="prompt_tuning", options={"num_virtual_tokens": 2}), "adapters of the kind PROMPT_TUNING"),
    ):
        fast, said = kernel.install(part.attach(AutoModelForCausalLM.from_pretrained(tiny_model)))
        assert not fast
        assert words in said


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_fast_kernel_declines_weights_of_torchao(tiny_model: Path) -> None:
    """Which look like torch's own."""
    pytest.importorskip("torchao")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from loraplug_torchao.quantizer import TorchAo
    from loraplug_train.cpu import kernel

    config = TorchAo().config(torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=config, dtype=torch.float32)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    fast, said = kernel.install(get_peft_model(model, lora))
    assert not fast
    assert "weights are stored as" in said
