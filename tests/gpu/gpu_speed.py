"""Tokens a second and peak memory beside trl, each in a process of its own, on the same rows in the same order.

The model is SmolLM2 where its package is installed, or `LORAPLUG_GPU_MODEL` (a folder or a hub id); on the CPU the
random one of the tests, which tells no more than that the table can be made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SIDES = ("loraplug", "loraplug, liger", "trl, padding-free", "trl, its defaults")
STEPS, ROWS = 8, 4  # optimizer steps, of which the first three are not timed; rows in each
_WARM = 3


def speeds(device: str, fallback: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """By side: `speed` (tokens/s, prompts included), `peak` (bytes), `losses` (nats, of each step)."""
    from importlib.util import find_spec

    found = {}
    model = os.environ.get("LORAPLUG_GPU_MODEL", str(fallback))
    for side in SIDES:
        if "liger" in side and (device == "cpu" or not find_spec("liger_kernel")):
            continue
        command = [sys.executable, __file__, side, model, device, str(folder / side.replace(", ", "-"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found[side] = json.loads(done.stdout.splitlines()[-1])
    return found


def _rows(device: str, vocabulary: int) -> Any:
    import random

    from datasets import Dataset

    draw = random.Random(0)
    low, high = (200, 1500) if device == "cuda" else (20, 60)
    ids = [
        [draw.randrange(3, min(250, vocabulary)) for _ in range(draw.randint(low, high))] for _ in range(STEPS * ROWS)
    ]
    labels = [[-100] * (len(row) // 3) + row[len(row) // 3 :] for row in ids]
    names = [[f"r{at}"] for at in range(len(ids))]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "row": names})


def _measure(side: str, name: str, device: str, folder: Path) -> dict[str, Any]:
    import time

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    where = {"device_map": {"": 0}} if device == "cuda" else {}
    dtype = "bfloat16" if device == "cuda" else "float32"
    model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **where)
    tokenizer = AutoTokenizer.from_pretrained(name)
    rows = _rows(device, len(tokenizer))
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    train = _ours if side.startswith("loraplug") else _theirs
    losses, steps = train(side, model, tokenizer, rows, device, folder, Clock())
    lengths = [sum(len(rows["input_ids"][row]) for row in step) for step in steps]
    speed = sum(lengths[_WARM:]) / (times[-1] - times[_WARM - 1])
    from loraplug_train.engine.memory import peak_memory

    return {"speed": speed, "peak": peak_memory(), "losses": losses}


def _ours(side: str, model: Any, tokenizer: Any, rows: Any, device: str, folder: Path, clock: Any) -> Any:
    from loraplug import Encoded, Run
    from loraplug_train.engine import schedule as order
    from loraplug_train.trainer import Sft

    def observe(event: Any) -> None:
        if event.kind == "metrics" and "loss" in event.data:
            clock.on_step_end()

    run = Run("ours", outputs=folder, observe=observe)
    run.folder.mkdir(parents=True)
    kernel = "liger" if "liger" in side else "auto"
    options = Sft(samples=0, max_steps=STEPS, batch_size=ROWS, warmup_ratio=0.0, kernel=kernel, save_every=10**6)
    result = options.train(run, lambda _: model, tokenizer, Encoded(rows), None)
    lines = (result.path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    plan = order.build_schedule([len(ids) for ids in rows["input_ids"]], run.seed, 1.0, STEPS, ROWS)
    return [json.loads(line)["loss"] for line in lines[:-1]], plan.steps


def _theirs(side: str, model: Any, tokenizer: Any, rows: Any, device: str, folder: Path, clock: Any) -> Any:
    from peft import LoraConfig
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    from loraplug_train.engine import schedule as order

    best = {"padding_free": True, "gradient_checkpointing": False} if "free" in side else {}
    options = SFTConfig(
        output_dir=str(folder), seed=42, max_steps=STEPS, per_device_train_batch_size=ROWS, learning_rate=5e-4,
        lr_scheduler_type="cosine", warmup_steps=0, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None,
        logging_steps=1, report_to="none", save_strategy="no", use_cpu=device == "cpu", bf16=device == "cuda", **best,
    )  # fmt: skip
    set_seed(42)
    trainer = SFTTrainer(
        model,
        args=options,
        train_dataset=rows.remove_columns("row"),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[clock],
    )
    trainer.train()
    plan = order.build_schedule([len(ids) for ids in rows["input_ids"]], 42, 1.0, STEPS, ROWS)
    return [line["loss"] for line in trainer.state.log_history if "loss" in line], plan.steps


if __name__ == "__main__":
    side, name, device, folder = sys.argv[1:]
    print(json.dumps(_measure(side, name, device, Path(folder))))  # noqa: T201
