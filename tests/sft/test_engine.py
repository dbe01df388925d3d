"""What the engine promises, held to an objective that needs all it has: pairs, a reference, what spans a step."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve
from engine_objective import MarginTrainer, pairs
from sft_rows import encoded

from loraplug import Encoded, InputError, LoraplugError, Run, TokenSequence, TrainingResult
from loraplug.testing import make_registry
from loraplug_train import EngineTrainer, Objective
from loraplug_train.engine.step import StepComputer
from loraplug_train.trainer import Sft

SETTINGS = {"samples": 0, "learning_rate": 5e-3, "batch_size": 4, "max_steps": 6}
Fit = Callable[..., tuple[TrainingResult, Run]]


@pytest.fixture
def fit(tiny_model: Path, tmp_path: Path) -> Fit:
    """Trains in this process; `name` is the run's, the other options are the trainer's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def train(name: str = "a", trainer: Any = MarginTrainer, rows: Any = None, held: Any = None, **options: Any) -> Any:
        run = Run(name, outputs=tmp_path / "outputs")
        run.folder.mkdir(parents=True, exist_ok=True)
        made = trainer(**{**SETTINGS, **options})
        given = Encoded(pairs(12) if rows is None else rows, made.consumes)
        watched = None if held is None else Encoded(held, made.consumes)
        result = made.train(
            run,
            lambda _: AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32"),
            AutoTokenizer.from_pretrained(tiny_model),
            given,
            watched,
        )
        return result, run

    return train


def metrics(run: Run, key: str = "loss") -> list[float]:
    """A figure of every step."""
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[:-1]
    return [json.loads(line)[key] for line in lines]


def digest(run: Run) -> str:
    """Of the adapter."""
    return hashlib.sha256((run.folder / "adapter/adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("kernel", ["auto", "plain"])
def test_an_objective_of_pairs_learns(fit: Fit, kernel: str) -> None:
    """From ln 2, where the model is its reference, down; its own figures are told beside the loss, and validated."""
    result, run = fit(kernel=kernel, held=pairs(5, seed=9), max_steps=20)
    assert metrics(run)[0] == pytest.approx(0.6931, abs=1e-3)
    assert sum(metrics(run)[-5:]) < sum(metrics(run)[:5])
    assert {0.0, 0.25, 0.5, 0.75, 1.0} >= set(metrics(run, "accuracy"))
    assert result.figures["validation_loss_before"] == pytest.approx(0.6931, abs=1e-3)
    assert result.figures["validation_loss_after"] < 0.69
    assert result.figures["validation_accuracy_after"] >= 0.6


def test_a_faulty_loss_is_named(fit: Fit) -> None:
    """The class and what is wrong with its result, where torch says only that it cannot convert a tensor."""

    class PerRow(MarginTrainer):
        def loss(self, *given: Any) -> Any:
            return super().loss(*given).expand(3)

    class Misnamed(MarginTrainer):
        metric_names = ("acuracy",)

    with pytest.raises(LoraplugError, match=r"PerRow.loss: returned a tensor of shape \(3,\), not a scalar"):
        fit(trainer=PerRow)
    with pytest.raises(LoraplugError, match=r"Misnamed.loss: wrote the metrics \['accuracy'\], but metric_names"):
        fit("b", trainer=Misnamed)


def test_neither_kernel_nor_micro_batches_change_what_it_comes_to(fit: Fit) -> None:
    """Nor documents padded in place of laid end to end."""
    given: list[dict[str, Any]] = [{}, {"micro_batch": 1}, {"micro_batch": 4, "kernel": "plain"}]
    given.append({"kernel": "plain", "gradient_checkpointing": True})
    found = [metrics(fit(f"n{at}", **options)[1]) for at, options in enumerate(given)]
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-4)


def test_going_on_ends_at_the_same_adapter(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit; what the reference model said is found again."""
    whole = digest(fit("whole", save_every=2)[1])
    compute = StepComputer.compute

    def stopping(self: Any, rows: Any, done: int) -> Any:
        if done == 3:
            raise KeyboardInterrupt
        return compute(self, rows, done)

    monkeypatch.setattr(StepComputer, "compute", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit("killed", save_every=2)
    monkeypatch.undo()
    kept = tmp_path / "outputs/runs/killed/checkpoints/reference-train.safetensors"
    asked = kept.stat().st_mtime_ns
    _, run = fit("killed", save_every=2)
    assert kept.stat().st_mtime_ns == asked
    assert any("resuming from the checkpoint of step 2 of 6" in line for line in run.reporter.lines)  # type: ignore[attr-defined]
    assert digest(run) == whole


def test_a_lack_of_memory_halves_what_is_computed_at_once(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs stay together, and the end is the same."""
    wide = metrics(fit("wide", kernel="plain", micro_batch=4)[1])
    loss = MarginTrainer.loss

    def short(self: Any, model: Any, batch: Any, *rest: Any) -> Any:
        if len(batch.rows) > 2:
            raise MemoryError
        return loss(self, model, batch, *rest)

    monkeypatch.setattr(MarginTrainer, "loss", short)
    _, run = fit("narrow", kernel="plain", micro_batch=4)
    assert "out of memory at step 1; continuing with 2 rows at once" in run.reporter.warnings  # type: ignore[attr-defined]
    assert metrics(run) == pytest.approx(wide, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["", "FSDP2"])
def test_two_processes_do_what_one_does(fit: Fit, tiny_model: Path, tmp_path: Path, sharding: str) -> None:
    """The reference, what spans a step, the losses and the figures beside them."""
    script = Path(__file__).with_name("engine_objective.py")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if sharding:
        env |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(script), str(tiny_model), str(tmp_path / "both")],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result, run = fit("one", held=pairs(5, seed=9))
    both = Run("both", outputs=tmp_path / "both")
    for key in ("loss", "accuracy"):
        assert metrics(both, key) == pytest.approx(metrics(run, key), rel=1e-4), key
    told = json.loads((both.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["summary"]
    for name in ("validation_loss_before", "validation_loss_after", "validation_accuracy_after"):
        assert told[name] == pytest.approx(result.figures[name], rel=1e-4), name


def test_rows_that_an_objective_cannot_take_are_named(fit: Fit) -> None:
    """All at once, before the first step."""
    from datasets import Dataset

    spoilt = [row | ({"rejected_ids": row["chosen_ids"]} if at % 3 == 0 else {}) for at, row in enumerate(pairs(6))]
    with pytest.raises(InputError, match=r"r0: both sides are the same; r3: both sides are the same"):
        fit(rows=Dataset.from_list(spoilt))


def test_a_checkpoint_of_another_format_is_told(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plainly, with what to do."""
    fit("old")
    monkeypatch.setattr("loraplug_train.engine.state.FORMAT", 3)
    with pytest.raises(InputError, match=r"checkpoint of step 6 was written by another version of loraplug"):
        fit("old")


def test_label_smoothing_and_dft_are_what_their_papers_say(fit: Fit, tiny_model: Path) -> None:
    """By the model's own logits, on both kernels; validation stays plain cross-entropy."""
    import torch
    from transformers import AutoModelForCausalLM

    rows = encoded(4)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    smooth, dft, count = 0.0, 0.0, 0
    for row in rows:
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1].detach()
        labels = torch.tensor(row["labels"])[1:]
        kept = labels != -100
        count += int(kept.sum())
        entropy = torch.nn.functional.cross_entropy(logits[kept], labels[kept], reduction="none")
        smoothed = torch.nn.functional.cross_entropy(logits[kept], labels[kept], reduction="sum", label_smoothing=0.2)
        smooth += float(smoothed)
        dft += float((entropy * (-entropy).exp()).sum())
    for kernel in ("auto", "plain"):
        options = {"trainer": Sft, "rows": rows, "max_steps": 2, "kernel": kernel}
        _, one = fit(f"smooth-{kernel}", label_smoothing=0.2, held=encoded(3), **options)
        assert metrics(one)[0] == pytest.approx(smooth / count, rel=1e-5)
        _, other = fit(f"dft-{kernel}", loss_type="dft", **options)
        assert metrics(other)[0] == pytest.approx(dft / count, rel=1e-5)
        result, _ = fit(f"none-{kernel}", held=encoded(3), **options)
        told = json.loads((one.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["summary"]
        assert told["validation_loss_before"] == result.figures["validation_loss_before"]


def test_an_objective_of_ones_own_is_one_method(fit: Fit) -> None:
    """Rows of tokens, with a loss that is not the engine's; the trainer says which schema it consumes by itself."""
    from attrs import frozen

    @frozen
    class Squared(Objective):
        def loss(self, model: Any, batch: Any, totals: Any, prepared: Any, reference: Any) -> Any:
            return (model.log_probs(batch) ** 2).sum() / totals["tokens"]

    @frozen
    class SquaredTrainer(Squared, EngineTrainer):
        name = "squared"

    _, run = fit("own", trainer=SquaredTrainer, rows=encoded(12))
    assert metrics(run)[-1] < metrics(run)[0]
    assert (SquaredTrainer.consumes, MarginTrainer.consumes) == ("tokens", "pairs")


def test_a_sequence_counts_its_labels() -> None:
    """The first token is predicted from nothing."""
    one = TokenSequence([1, 2, 3], [1, -100, 3])
    assert one.label_count == 1
    assert evolve(one, labels=[1, 2, 3]).label_count == 2


def test_the_objective_of_the_page_trains(fit: Fit) -> None:
    """The code of docs/engine.md, as it stands there."""
    page = Path(__file__).parents[2] / "docs/engine.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    inside: dict[str, Any] = {"__name__": "page"}
    exec(compile(block, "engine.md", "exec", dont_inherit=True), inside)  # noqa: S102 - our own page
    trainer = make_registry(SimpleNamespace(**{name: inside[name] for name in ("loraplug_trainers",)})).find(
        "trainer", "unlikelihood"
    )
    _, run = fit("page", trainer=trainer, max_steps=12)
    assert metrics(run)[-1] < metrics(run)[0]
    assert trainer.consumes == "pairs"
