"""A training that is stopped and started again ends as one that was not: to the bit."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from sft_rows import encoded

from loraplug import TrainingResult

Train = Callable[..., TrainingResult]


def digest(result: TrainingResult) -> str:
    """SHA-256 of the adapter's weights."""
    return hashlib.sha256((result.path / "adapter_model.safetensors").read_bytes()).hexdigest()


class StopError(Exception):
    """What ends a training in these tests."""


def stop_before(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise in the forward pass of a step."""
    from loraplug_train.engine.step import StepComputer

    compute = StepComputer.compute

    def stopping(self: Any, rows: Any, done: int) -> Any:
        if done == step - 1:
            raise StopError
        return compute(self, rows, done)

    monkeypatch.setattr(StepComputer, "compute", stopping)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lora": {"dropout": 0.3}, "neftune_alpha": 5.0},
        {"optimizer": "adamw_8bit"},
        {"lora": {"loraplus_lr_ratio": 8.0}, "tokens_per_step": 60, "scheduler": "linear"},
        {"validate_every": 2, "load_best_model_at_end": True, "held": True},
    ],
    ids=["plain", "random", "8bit", "lora-plus", "validated"],
)
def test_going_on_ends_at_the_same_adapter(
    options: dict[str, Any], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever draws random numbers or keeps state: stopped before step 4 and started again, bit for bit the same."""
    from loraplug_train.adapters.lora import Lora

    settings = {"save_every": 1, **options, "lora": Lora(**options.get("lora", {}))}
    settings["held"] = encoded(4, seed=9) if options.get("held") else None
    whole = train("whole", **settings)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        stop_before(4, patch)
        train("stopped", **settings)
    resumed = train("stopped", **settings)
    assert digest(resumed) == digest(whole)
    assert "resuming from the checkpoint of step 3" in " ".join(train.reporter.lines)  # type: ignore[attr-defined]
    lines = [
        [json.loads(line) for line in (result.path.parent / "metrics.jsonl").read_text().splitlines()[:-1]]
        for result in (whole, resumed)
    ]
    for one, other in zip(*lines, strict=True):
        assert {**one, "seconds": 0, "tokens_per_second": 0} == {**other, "seconds": 0, "tokens_per_second": 0}


def test_a_torn_checkpoint_is_passed_over(train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cut short, or changed by a bit: told of, and the one before is taken; the end is the same."""
    whole = train("whole", save_every=1)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        stop_before(5, patch)
        train("torn", save_every=1, save_total_limit=3)
    folder = tmp_path / "outputs/runs/torn/checkpoints"
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-00000002", "step-00000003", "step-00000004"]
    newest = folder / "step-00000004/state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    changed = folder / "step-00000003/state.json"
    changed.write_text(changed.read_text().replace('"step": 3', '"step": 9'))
    assert digest(train("torn", save_every=1, save_total_limit=3)) == digest(whole)
    assert len(train.reporter.warnings) == 2  # type: ignore[attr-defined]
    assert "damaged" in train.reporter.warnings[0]  # type: ignore[attr-defined]


def test_a_finished_training_is_not_repeated(train: Train) -> None:
    """Killed while it measured at the end: the last step's checkpoint is taken and no step is done again."""
    first = train("a")
    again = train("a")
    assert digest(first) == digest(again)
    assert first.figures["steps"] == again.figures["steps"] == 8
    assert first.figures["seconds"] == again.figures["seconds"]


def test_sigterm_in_one_long_call_is_served_at_once(tiny_model: Path, tmp_path: Path) -> None:
    """The step in hand sits in a call that never comes back to Python; the boundary before it is on disk at once."""
    script, outputs = tmp_path / "long_step.py", tmp_path / "outputs"
    script.write_text(LONG_STEP, encoding="utf-8")
    command = [sys.executable, str(script), str(tiny_model), str(outputs)]
    begun = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert begun.stdout is not None
    seen = []
    for line in begun.stdout:
        seen.append(line)
        if "in the long call" in line:
            break
    else:
        pytest.fail("".join(seen))
    spent = sum(psutil.Process(begun.pid).cpu_times()[:2])
    begun.send_signal(signal.SIGTERM)
    rest = begun.stdout.read()
    _, status, used = os.wait4(begun.pid, 0)
    begun.returncode = os.waitstatus_to_exitcode(status)
    assert begun.returncode == 128 + signal.SIGTERM
    assert used.ru_utime + used.ru_stime - spent < 5  # seconds of its own, whatever else keeps the machine busy
    assert "checkpoint written at step 2" in rest
    assert (outputs / "runs/long/checkpoints/step-00000002/state.json").exists()


LONG_STEP = """
import ctypes, sys
from pathlib import Path
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from loraplug import Encoded, Reporter, Run
from loraplug_train.engine.step import StepComputer
from loraplug_train.trainer import Sft

class Loud(Reporter):
    def say(self, text):
        print(text, flush=True)

compute = StepComputer.compute
def stuck(self, rows, step):
    if step == 2:
        print("in the long call", flush=True)
        lock = ctypes.create_string_buffer(64)
        libc = ctypes.CDLL(None)  # like a backward pass it releases the interpreter, and ignores signals
        libc.pthread_mutex_lock(lock)
        libc.pthread_mutex_lock(lock)  # never comes back
    return compute(self, rows, step)
StepComputer.compute = stuck

ids = [[5, 6, 7, 8, 9, 10 + n] for n in range(12)]
rows = Dataset.from_dict({"input_ids": ids, "labels": ids, "row": [[str(n)] for n in range(12)]})
run = Run("long", outputs=Path(sys.argv[2]), reporter=Loud())
run.folder.mkdir(parents=True)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
Sft(samples=0, learning_rate=1e-2).train(run, lambda _: model, tokenizer, Encoded(rows), None)
"""
