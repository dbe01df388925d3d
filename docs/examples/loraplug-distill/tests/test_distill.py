"""What distill promises: its loss is Hinton's, a kill changes nothing, and two processes train as one does."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import loraplug_distill
import pytest
from loraplug_distill import DistillTrainer

from loraplug import load_registry
from loraplug.testing import make_registry, tiny_model
from loraplug_tools.plugins.conformance import assert_conforms

STEPS = 6
RECIPE = """\
run_name = "tiny"
[dataset]
use = "jsonl"
path = "rows.jsonl"
[formatter]
use = "chat-template"
[validation]
rows = 3
[model]
use = "transformers"
id = "student"
dtype = "float32"
[trainer]
use = "distill"
max_steps = {steps}
save_every = 2
batch_size = 4
learning_rate = 1e-2
samples = 0
alpha = {alpha}
temperature = 2.0
[trainer.teacher]
use = "transformers"
id = "teacher"
dtype = "float32"
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student and a teacher: the same tiny model, with other weights."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("student", "teacher")):
        tiny_model(folder / name)
        model = AutoModelForCausalLM.from_pretrained(folder / name, dtype="float32")
        torch.manual_seed(number)
        for weight in model.parameters():
            weight.data = torch.randn(weight.shape) * 0.05 if weight.dim() > 1 else weight.data
        model.save_pretrained(folder / name)
    return folder


def recipe(folder: Path, models: Path, alpha: float = 0.9, steps: int = STEPS) -> Path:
    """A recipe of its own in a new folder."""
    folder.mkdir()
    rows = [{"instruction": f"what is {n} and one?", "response": "so " * (n % 4) + str(n + 1)} for n in range(15)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = folder / "recipe.toml"
    text = RECIPE.format(steps=steps, alpha=alpha)
    for name in ("student", "teacher"):
        text = text.replace(f'"{name}"', f"'{models / name}'")
    path.write_text(text, encoding="utf-8")
    return path


def start(path: Path, *launcher: str) -> subprocess.Popen[str]:
    """A run in a process of its own."""
    env = {**os.environ, "LORAPLUG_CACHE": str(path.parent / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", *launcher, "loraplug", "run", path.name]
    return subprocess.Popen(
        command, cwd=path.parent, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finished(run: subprocess.Popen[str]) -> str:
    """Wait for it, and hold it to a good end; gives what it said."""
    said, _ = run.communicate(timeout=600)
    assert run.returncode == 0, said
    return said


def digest(path: Path) -> str:
    """Of the adapter."""
    return hashlib.sha256((path.parent / "outputs/adapters/tiny/adapter_model.safetensors").read_bytes()).hexdigest()


def figures(path: Path) -> list[float]:
    """Losses and divergences of all steps, and those of validation."""
    lines = (path.parent / "outputs/adapters/tiny/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps, summary = [json.loads(line) for line in lines[:-1]], json.loads(lines[-1])["summary"]
    names = [f"validation_{name}_{when}" for name in ("loss", "divergence") for when in ("before", "after")]
    return [step[name] for step in steps for name in ("loss", "divergence")] + [summary[name] for name in names]


@pytest.fixture(scope="module")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a run that nothing happened to."""
    path = recipe(tmp_path_factory.mktemp("runs") / "undisturbed", models)
    finished(start(path))
    return path


def test_it_is_found_and_conforms(models: Path, tmp_path: Path) -> None:
    """Everything loraplug asks of a trainer."""
    assert make_registry(loraplug_distill).find("trainer", "distill") is DistillTrainer
    loader: Any = load_registry().find("model", "transformers")
    teacher = loader(id=str(tiny_model(tmp_path / "teacher")))
    assert_conforms(DistillTrainer(teacher=teacher, max_steps=2, samples=0), tmp_path / "checks")


def test_the_first_loss_is_that_of_the_paper(models: Path, undisturbed: Path) -> None:
    """Of the validation rows before training, by nothing but the two models' logits."""
    import torch
    from transformers import AutoModelForCausalLM

    from loraplug import App

    pipeline = App(load_registry()).pipeline(undisturbed, ())
    _, held = pipeline.split_rows(pipeline.load_rows())
    encoded = pipeline.encode(held, pipeline.load_tokenizer())
    student, teacher = (AutoModelForCausalLM.from_pretrained(models / name, dtype="float32")
                        for name in ("student", "teacher"))  # fmt: skip
    apart, entropy, count = 0.0, 0.0, 0
    for row in encoded.dataset:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
        kept = labels != -100
        with torch.no_grad():
            own, taught = (model(ids).logits[0, :-1][kept] for model in (student, teacher))
        soft = (own / 2).log_softmax(-1), (taught / 2).softmax(-1)
        apart += 4 * float(torch.nn.functional.kl_div(*soft, reduction="sum"))
        entropy += float(torch.nn.functional.cross_entropy(own, labels[kept], reduction="sum"))
        count += int(kept.sum())
    loss_before, _, divergence_before, divergence_after = figures(undisturbed)[-4:]
    assert divergence_before == pytest.approx(apart / count, rel=1e-4)
    assert loss_before == pytest.approx((0.9 * apart + 0.1 * entropy) / count, rel=1e-4)
    assert divergence_after < divergence_before


def test_a_killed_run_ends_with_the_same_adapter(models: Path, undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL after the first checkpoint; the same command goes on from it."""
    path = recipe(tmp_path / "killed", models)
    run, until = start(path), time.monotonic() + 300
    while not [*path.parent.glob("outputs/runs/tiny/checkpoints/step-*")] and run.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL, "it was over before it could be killed"
    assert not (path.parent / "outputs/adapters/tiny").exists()
    assert "resuming from the checkpoint of step" in finished(start(path))
    assert digest(path) == digest(undisturbed)


def test_two_processes_train_as_one_does(models: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Losses, divergences and validation, to 1e-5."""
    path = recipe(tmp_path / "both", models)
    finished(start(path, "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"))
    assert figures(path) == pytest.approx(figures(undisturbed), rel=1e-5)


def test_a_teacher_of_another_vocabulary_is_refused(models: Path, tmp_path: Path) -> None:
    """Before any work, by the files alone."""
    path = recipe(tmp_path / "other", models)
    other = tmp_path / "small"
    tiny_model(other)
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 9999, "content": "<|more|>"})
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(str(models / "teacher"), str(other)), encoding="utf-8")
    run = start(path)
    said, _ = run.communicate(timeout=600)
    assert run.returncode == 2
    assert "trainer.teacher" in said and "take a teacher with the model's tokenizer" in " ".join(said.split())
