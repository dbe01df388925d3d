"""DPO: speed and memory of loraplug compared with trl's own `DPOTrainer`, on the same pairs, in one run.

    python benchmarks/preferences.py --data DIR                 # trl as it comes, trl at its best, ours
    python benchmarks/preferences.py --data DIR --sides ours,trl:batch=2+checkpointing=0

DIR holds alpaca_en_demo.json (a list of instruction, input, output). A row's own answer is the chosen one, that of
another row the rejected one. Tokens are those of trl's preparation, for both. Everybody trains SmolLM2-135M in fp32,
rank 16 on all linear layers, 4 pairs an optimizer step, in the same order with the same settings, so losses must
be equal. Each side is a process of its own; they take their steps in turn.

What the reference model says is part of the figures: loraplug asks it about all rows once, before its first step, and
trl in every step (or, with `precompute=1`, before the first). Speeds are therefore those of all steps together; tokens
count the prompt with each of its two answers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer import BATCH, MODEL, SEED, Watch, chat_rows, report
from turns import Gate, Side, in_turn

from loraplug import Encoded, Placement, Progress, Run

SIDES = "trl,trl:batch=2+checkpointing=0,trl:batch=1+checkpointing=0,ours"
_SHORT = 1200  # characters of a pair, so that trl's padded default fits into memory


class WatchReference(Watch):
    """Opens the gate where the reference model is asked, which is before the training."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(gate)
        self.opened = False

    @contextlib.contextmanager
    def progress(self, title: str, total: float | None) -> Iterator[Progress]:
        """The first bar of the trainer: the reference, else the training."""
        if not self.opened and title.startswith(("reference", "training")):
            self.opened = True
            self.gate.open(steps=total)
        yield Progress()


def pairs(data: Path, count: int) -> list[dict[str, Any]]:
    """Conversations that differ in their answer."""
    rows = [row for row in chat_rows(data) if len(row["instruction"]) + len(row["response"]) < _SHORT]
    drawn = random.Random(0).sample(rows, 2 * count)  # noqa: S311 - the same draw every time
    return [
        {
            "prompt": [{"role": "user", "content": good["instruction"]}],
            "chosen": [{"role": "assistant", "content": good["response"]}],
            "rejected": [{"role": "assistant", "content": bad["response"]}],
        }
        for good, bad in zip(drawn[:count], drawn[count:], strict=True)
        if good["response"] != bad["response"]
    ]


def ours(gate: Gate, folder: Path, model_id: str, **options: Any) -> None:
    """loraplug's trainer as a recipe would make it; `options` are those of `[trainer]`."""
    from datasets import Dataset

    from loraplug_hf.loader import TransformersModel
    from loraplug_train.adapters.lora import Lora
    from loraplug_train.preferences import DpoTrainer

    watch = WatchReference(gate)
    run = Run(f"benchmark-{os.getpid()}", SEED, outputs=folder / "ours", reporter=watch, observe=watch.observe)
    loader = TransformersModel(id=model_id, dtype="float32")
    rows = Dataset.load_from_disk(str(folder / "rows")).select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    rows = rows.map(lambda row, at: row | {"chosen_labels": row["chosen_ids"], "rejected_labels": row["rejected_ids"],
                                           "row": [str(at)]}, with_indices=True)  # fmt: skip

    def load(placement: Placement) -> Any:
        return loader.load_model(run, None, placement)

    settings = {"epochs": 1.0, "batch_size": BATCH, "learning_rate": 2e-4, "scheduler": "cosine", "warmup_ratio": 0.0}
    settings |= {"samples": 0, "lora": Lora(r=16, alpha=32)} | options
    DpoTrainer(**settings).train(run, load, loader.load_tokenizer(run), Encoded(rows, schema="pairs"), None)


def trl_trainer(
    folder: Path, model_id: str, texts: list[dict[str, Any]], callbacks: list[Any], batch: int, checkpointing: int,
    padding_free: int, precompute: int,
) -> Any:  # fmt: skip
    """trl's trainer as its documentation has it used."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, set_seed
    from trl import DPOConfig, DPOTrainer

    from loraplug_hf.loader import TransformersModel

    run = Run("benchmark", outputs=folder / "trl")
    loader = TransformersModel(id=model_id, dtype="float32")
    args = DPOConfig(
        output_dir=str(folder / "trl"), seed=SEED, num_train_epochs=1, per_device_train_batch_size=batch,
        gradient_accumulation_steps=BATCH // batch, learning_rate=2e-4, lr_scheduler_type="cosine", warmup_steps=0,
        bf16=False, use_cpu=True, logging_steps=1, save_strategy="no", report_to="none", max_length=None,
        gradient_checkpointing=bool(checkpointing), padding_free=bool(padding_free),
        precompute_ref_log_probs=bool(precompute),
    )  # fmt: skip
    set_seed(SEED)
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(loader.base(run), dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_list(texts),
        processing_class=loader.load_tokenizer(run),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
        callbacks=callbacks,
    )


def trl(
    gate: Gate, folder: Path, model_id: str, texts: list[dict[str, Any]], batch: int = BATCH, checkpointing: int = 1,
    padding_free: int = 0, precompute: int = 0,
) -> None:  # fmt: skip
    """A training by trl, held at the gate."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if not precompute:
                gate.open(steps=state.max_steps)

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any, **_: Any) -> None:
            if "loss" in logs:
                gate.step(loss=logs["loss"])

    if precompute:  # which the constructor does, after it has loaded the model
        gate.open()
    trl_trainer(folder, model_id, texts, [Turns()], batch, checkpointing, padding_free, precompute).train()


def child(side: str, folder: Path, model_id: str, data: Path, count: int) -> None:
    """Train as one side does, or make the rows; steps wait for the parent."""
    texts = pairs(data, count)
    if side == "rows":
        made = trl_trainer(folder, model_id, texts, [], BATCH, 0, 0, 0)
        made.train_dataset.save_to_disk(str(folder / "rows"))
        return
    gate = Gate()
    name, _, text = side.partition(":")
    given = [pair.split("=", 1) for pair in text.split("+") if pair]
    options: dict[str, Any] = {key: int(value) if value.isdigit() else value for key, value in given}
    if name == "ours":
        ours(gate, folder, model_id, **options)
    else:
        trl(gate, folder, model_id, texts, **options)


def finish(folder: Path, sides: list[Side]) -> None:
    """Show why a side failed, and the table of the others."""
    from datasets import Dataset

    for number, side in enumerate(sides):
        if side.ended and not side.ended.endswith(" 0"):
            print(side.name, (folder / f"{number}.log").read_text()[-2000:], file=sys.stderr)
    taken = [side for side in sides if side.steps]
    rows = Dataset.load_from_disk(str(folder / "rows"))
    tokens = sum(2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows)
    print(f"{len(rows)} pairs in steps of {BATCH}, {tokens} tokens, {os.cpu_count()} cores")
    report(taken, tokens)
    if taken[-1].name.startswith("ours"):
        for side in taken[:-1]:
            wall, cpu = (side.sum(key) / taken[-1].sum(key) for key in ("wall", "cpu"))
            memory = max(step["peak"] for step in taken[-1].steps) / max(step["peak"] for step in side.steps)
            print(
                f"ours beside {side.name}: {wall:.2f} times as fast, {cpu:.2f} by CPU time; {memory:.2f} of its memory"
            )


def main() -> None:
    """Let the sides take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sides", default=SIDES, help="comma between sides, + between options; default: %(default)s")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of 4 pairs")
    parser.add_argument("--model", default=MODEL)
    for hidden in ("--side", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        child(given.side, Path(given.folder), given.model, given.data, BATCH * given.steps)
        return
    names = given.sides.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, __file__, "--data", str(given.data), "--folder", temporary, "--model", given.model]
        command += ["--steps", str(given.steps)]
        if subprocess.run([*command, "--side", "rows"], stdout=subprocess.DEVNULL, check=False).returncode:
            raise SystemExit("the rows could not be made")
        folder = Path(temporary)
        sides = [Side.start(name, [*command, "--side", name], folder / f"{n}.log") for n, name in enumerate(names)]
        in_turn(sides, given.steps)
        finish(folder, sides)


if __name__ == "__main__":
    main()
