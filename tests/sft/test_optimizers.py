"""Optimizers and courses of the learning rate as components: built-in ones, and those that a package brings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from sft_rows import encoded

from loraplug import Encoded, InputError, Optimizer, Run, Scheduler
from loraplug_tools.plugins.conformance import assert_conforms
from loraplug_train.adapters.lora import Lora
from loraplug_train.engine.step import StepComputer
from loraplug_train.optimizers import AdamW, Cosine, WarmupStableDecay
from loraplug_train.trainer import Sft

Fit = Callable[..., Run]


@frozen
class Signs(Optimizer):
    """Sign descent with momentum: state that a checkpoint must hold."""

    name = "signs"

    def make(self, groups: Any, learning_rate: float) -> Any:
        """See the base."""
        import torch

        class Descent(torch.optim.Optimizer):
            @torch.no_grad()
            def step(self) -> None:  # type: ignore[override]
                for group in self.param_groups:
                    for weight in group["params"]:
                        kept = self.state[weight]
                        kept["steps"] = kept.get("steps", 0) + 1
                        mean = kept.setdefault("mean", torch.zeros_like(weight))
                        mean.lerp_(weight.grad, 0.2)
                        weight.sub_(mean.sign(), alpha=group["lr"] / kept["steps"] ** 0.5)

        return Descent([dict(group) for group in groups], {"lr": learning_rate})


@frozen
class Stairs(Scheduler):
    """Half after half of the steps."""

    name = "stairs"

    def factor(self, step: int, steps: int, warmup: int) -> float:
        """See the base."""
        return 1.0 if 2 * step < steps else 0.5


@frozen
class Lost(Optimizer):
    """Gives what is no optimizer of its groups."""

    name = "lost"
    what: str = "nothing"

    def make(self, groups: Any, learning_rate: float) -> Any:
        """See the base."""
        import torch

        if self.what == "nothing":
            return object()
        if self.what == "others":
            return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
        return torch.optim.SGD([{**group, "note": object()} for group in groups], lr=learning_rate)


@pytest.fixture
def fit(tiny_model: Path, tmp_path: Path) -> Fit:
    """Trains six steps in this process, under a run of that name."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def train(name: str, **options: Any) -> Run:
        run = Run(name, outputs=tmp_path / "outputs")
        run.folder.mkdir(parents=True, exist_ok=True)
        Sft(**{"samples": 0, "learning_rate": 5e-3, "max_steps": 6, "save_every": 2, **options}).train(
            run,
            lambda _: AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32"),
            AutoTokenizer.from_pretrained(tiny_model),
            Encoded(encoded(12)),
            None,
        )
        return run

    return train


def figures(run: Run, key: str = "loss") -> list[float]:
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[:-1]
    return [json.loads(line)[key] for line in lines]


def digest(run: Run) -> str:
    return hashlib.sha256((run.folder / "adapter/adapter_model.safetensors").read_bytes()).hexdigest()


def test_a_table_without_options_is_what_the_text_is(fit: Fit) -> None:
    """Bit for bit; LoRA+ and the options of the table hold, too."""
    text = fit("text", optimizer="adamw_torch", scheduler="cosine")
    table = fit("table", optimizer=AdamW(), scheduler=Cosine())
    assert digest(text) == digest(table)
    plus = {"lora": Lora(loraplus_lr_ratio=4.0)}
    assert digest(fit("text-plus", **plus)) == digest(fit("table-plus", optimizer=AdamW(), **plus)) != digest(text)
    assert digest(fit("betas", optimizer=AdamW(betas=(0.5, 0.9)))) != digest(text)


def test_a_killed_training_with_an_optimizer_of_ones_own_ends_alike(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state and the course of the learning rate go on from the checkpoint."""
    own = {"optimizer": Signs(), "scheduler": Stairs()}
    whole = fit("whole", **own)
    assert figures(whole, "learning_rate") == [5e-3] * 3 + [2.5e-3] * 3
    compute = StepComputer.compute

    def stopping(self: Any, rows: Any, done: int) -> Any:
        if done == 3:
            raise KeyboardInterrupt
        return compute(self, rows, done)

    monkeypatch.setattr(StepComputer, "compute", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit("killed", **own)
    monkeypatch.undo()
    run = fit("killed", **own)
    assert any("resuming from the checkpoint of step 2 of 6" in line for line in run.reporter.lines)  # type: ignore[attr-defined]
    assert digest(run) == digest(whole)


@pytest.mark.parametrize(
    ("what", "words"),
    [("nothing", "no torch.optim.Optimizer"), ("others", "of other parameters"), ("odd", "a checkpoint cannot hold")],
)
def test_what_is_no_optimizer_of_the_adapters_is_refused(fit: Fit, what: str, words: str) -> None:
    """Before the first step, with its name."""
    with pytest.raises(InputError, match=f"trainer.optimizer lost: make\\(\\) gave .*{words}"):
        fit(what, optimizer=Lost(what=what))


def test_the_built_in_courses_are_what_they_are_called() -> None:
    """Cosine is that of transformers; both rise in the warmup and end at their floor."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = get_scheduler("cosine", optimizer, num_warmup_steps=3, num_training_steps=10)
    for step in range(11):
        assert Cosine().factor(step=step, steps=10, warmup=3) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()
    part = WarmupStableDecay(decay_ratio=0.4, floor=0.1)
    course = [part.factor(step=step, steps=10, warmup=2) for step in range(11)]
    assert course == pytest.approx([0, 0.5, 1, 1, 1, 1, 1, 0.775, 0.55, 0.325, 0.1])
    assert Cosine(floor=0.2).factor(step=10, steps=10, warmup=3) == pytest.approx(0.2)


@pytest.mark.parametrize("part", [AdamW(), Cosine(), WarmupStableDecay(), Signs(), Stairs()], ids=lambda one: one.name)
def test_they_conform(part: Any, tmp_path: Path) -> None:
    """To what is asked of every one."""
    assert_conforms(part, tmp_path)


def test_recipes_name_them(inside: Any, recipe: Path) -> None:
    """As text or table; resolved, in the schema, in the list, and told what is wrong with them."""
    text = recipe.read_text(encoding="utf-8")
    table = '[trainer.optimizer]\nuse = "adamw_torch"\neps = 1e-6\n[trainer.scheduler]\nuse = "wsd"\n'
    recipe.write_text(text.replace("[[exporter]]", f"{table}[[exporter]]", 1), encoding="utf-8")
    shown = inside("recipe", "show", recipe, "--resolved").stdout
    for words in ('use = "adamw_torch"', "eps = 1e-06", "betas = [", 'use = "wsd"', "decay_ratio = 0.2"):
        assert words in shown
    schema = json.loads(inside("recipe", "schema").stdout)
    assert "optimizer.loraplug:adamw_torch" in schema["$defs"]
    arms = schema["$defs"]["trainer.loraplug:sft"]["properties"]["optimizer"]["anyOf"]
    assert {"$ref": "#/$defs/optimizer"} in arms and any("adamw_8bit" in arm.get("enum", ()) for arm in arms)
    wrong = inside("recipe", "check", recipe, "--set", "trainer.optimizer.esp=1", "--set", "trainer.scheduler=cosin")
    said = " ".join(wrong.stderr.split())
    assert "trainer.optimizer.esp: unknown key (did you mean eps?)" in said
    assert "trainer.scheduler: expected" in said and "did you mean 'cosine'" in said
