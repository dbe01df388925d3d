"""Training speed and memory compared with LLaMA-Factory and LitGPT, on the same rows and masks as in trainer.py.

    python benchmarks/trainer_peers.py --data DIR --venvs DIR2               # makes the two environments where missing
    python benchmarks/trainer_peers.py --data DIR --venvs DIR2 --sides ours,litgpt:batch=1

Each peer lives in a virtual environment of its own in DIR2 (about 2 GB each; LLaMA-Factory 0.9.5, LitGPT 0.5.13, torch
2.13.0), as neither installs beside current transformers. LLaMA-Factory's torchvision and torchaudio do not load beside
a CPU torch and are taken out, an empty torchaudio put in their place, which is all that training on text needs.

LLaMA-Factory gets the rows as a tokenised data set, LitGPT as a data module: templates and masks are ours everywhere.
Both also run at micro-batch 1 with accumulation 4, and LLaMA-Factory without checkpointing, which it has on by default.
All train in fp32, rank 16 on all linear layers, without dropout.

LitGPT weighs rows, not tokens, when it accumulates. Its loss is shown as the mean over tokens, like everybody's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from turns import Gate, Side, in_turn

PEERS = {"llamafactory": "llamafactory==0.9.5", "litgpt": "litgpt==0.5.13"}
TORCH = "torch==2.13.0"
BATCH, SEED = 4, 42
SIDES = (
    "ours,trl:batch=1+checkpointing=0,llamafactory,llamafactory:batch=1,llamafactory:batch=1+checkpointing=0,"
    "litgpt,litgpt:batch=1"
)


def install(name: str, place: Path) -> Path | None:
    """The Python of a peer's environment, made where missing; None (and the reason told) if pip cannot."""
    python = place / name / "bin" / "python"
    if (place / name / "installed").exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", str(place / name)], check=True)
    command = [str(python), "-m", "pip", "install", "--quiet", TORCH, PEERS[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{PEERS[name]} does not install:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    if name == "llamafactory":  # builds that do not load beside a CPU torch; text training needs neither
        subprocess.run([str(python), "-m", "pip", "uninstall", "-qy", "torchvision", "torchaudio"], check=True)
        next((place / name).glob("lib/*/site-packages")).joinpath("torchaudio.py").touch()
    (place / name / "installed").touch()
    return python


def llamafactory(gate: Gate, folder: Path, base: Path, batch: int = BATCH, checkpointing: int = 1) -> None:
    """`llamafactory-cli train` with a tokenised data set."""
    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            gate.open(steps=state.max_steps)

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any, **_: Any) -> None:
            if "loss" in logs:
                gate.step(loss=logs["loss"])

    settings = {
        "model_name_or_path": str(base),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_target": "all",
        "template": "smollm2",
        "dataset": "tokenised",  # must be said, is not looked at
        "tokenized_path": str(folder / "tokenised"),
        "cutoff_len": 2048,
        "output_dir": str(folder / f"llamafactory-{os.getpid()}"),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": BATCH // batch,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "cosine",
        "num_train_epochs": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": SEED,
        "use_cpu": True,
        "disable_gradient_checkpointing": not checkpointing,
    }
    run_exp(settings, callbacks=[Turns()])


def litgpt(gate: Gate, folder: Path, base: Path, batch: int = BATCH) -> None:  # noqa: ARG001 - it has its own copy
    """`litgpt finetune_lora` with a data module that has the rows."""
    import torch
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.data import DataModule
    from litgpt.data.base import get_sft_collate_fn
    from litgpt.finetune import lora
    from torch.utils.data import DataLoader

    losses: list[tuple[float, int]] = []
    plain = lora.chunked_cross_entropy

    def counted(logits: Any, targets: Any, **options: Any) -> Any:
        loss = plain(logits, targets, **options)
        losses.append((loss.item(), int((targets != -100).sum())))
        return loss

    class Gated(torch.optim.AdamW):
        def step(self, *given: Any, **options: Any) -> Any:
            done = super().step(*given, **options)
            tokens = sum(count for _, count in losses)
            gate.step(loss=sum(loss * count for loss, count in losses) / tokens)
            losses.clear()
            return done

    rows = [
        {key: torch.tensor(row[key]) for key in ("input_ids", "labels")}
        | {"token_counts": {"raw": len(row["labels"]), "raw_plus_prompt_template": len(row["labels"])}}
        for row in map(json.loads, (folder / "rows.jsonl").read_text().splitlines())
    ]
    opened = []

    class Rows(DataModule):
        prompt_style = None

        def connect(self, *_: Any, **__: Any) -> None:
            """Rows are encoded already."""

        def train_dataloader(self) -> Any:
            collate = get_sft_collate_fn()

            def gated(samples: Any) -> Any:
                if not opened:
                    opened.append(True)
                    losses.clear()
                    gate.open(steps=len(rows) // BATCH)
                return collate(samples)

            return DataLoader(rows, batch_size=batch, collate_fn=gated)

        def val_dataloader(self) -> Any:
            return DataLoader(rows[:1], batch_size=1, collate_fn=get_sft_collate_fn())

    lora.chunked_cross_entropy = counted
    lora.instantiate_torch_optimizer = partial(_adamw, Gated)
    lora.setup(
        checkpoint_dir=folder / "litgpt" / "SmolLM2-135M-Instruct",
        out_dir=folder / f"litgpt-{os.getpid()}",
        precision="32-true",
        lora_r=16,
        lora_alpha=32,
        lora_dropout=0.0,
        lora_key=True,
        lora_projection=True,
        lora_mlp=True,
        data=Rows(),
        train=TrainArgs(
            save_interval=10**6,
            log_interval=1,
            global_batch_size=BATCH,
            micro_batch_size=batch,
            lr_warmup_steps=1,  # it divides by this: the first step has a rate of 0
            epochs=1,
        ),
        eval=EvalArgs(interval=10**6, max_new_tokens=1, final_validation=False),
        seed=SEED,
    )


def _adamw(kind: Any, _: Any, parameters: Any) -> Any:
    return kind([parameter for parameter in parameters if parameter.requires_grad], lr=2e-4, weight_decay=0.0)


def convert(folder: Path, base: Path) -> None:
    """The base as LitGPT wants it."""
    import shutil

    from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint

    out = folder / "litgpt" / "SmolLM2-135M-Instruct"
    shutil.copytree(base, out)
    convert_hf_checkpoint(out, model_name="SmolLM2-135M-Instruct")


def shape_rows(folder: Path) -> None:
    """The rows as the peers read them, in the order in which transformers' sampler hands them out."""
    import torch
    from datasets import Dataset, DatasetDict

    rows = Dataset.load_from_disk(str(folder / "rows")).select_columns(["input_ids", "labels"])
    masked = rows.map(lambda row: row | {"attention_mask": [1] * len(row["labels"])})
    DatasetDict({"train": masked}).save_to_disk(str(folder / "tokenised"))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED)).tolist()
    (folder / "rows.jsonl").write_text("".join(json.dumps(rows[at]) + "\n" for at in order))


def child(side: str, folder: Path, base: Path) -> None:
    """One side's work, in the environment it needs."""
    name, _, text = side.partition(":")
    options = {key: int(value) for key, value in (pair.split("=") for pair in text.split("+") if pair)}
    if name == "convert":
        convert(folder, base)
    else:
        {"llamafactory": llamafactory, "litgpt": litgpt}[name](Gate(), folder, base, **options)


def main() -> None:
    """Make environments and rows, let the sides take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--venvs", type=Path)
    parser.add_argument("--rows", choices=["chat", "swe"], default="chat")
    parser.add_argument("--sides", default=SIDES)
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of 4 rows")
    for hidden in ("--side", "--folder", "--base"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        child(given.side, Path(given.folder), Path(given.base))
        return
    import trainer

    from loraplug import Run
    from loraplug_hf.loader import TransformersModel

    names = given.sides.split(",")
    pythons = {name: install(name, given.venvs) for name in PEERS if any(side.startswith(name) for side in names)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = TransformersModel(id=trainer.MODEL).base(Run("benchmark", outputs=folder))
        mine = [sys.executable, trainer.__file__, "--data", str(given.data), "--folder", temporary]
        mine += ["--rows", given.rows, "--steps", str(given.steps)]
        subprocess.run([*mine, "--side", "rows"], stdout=subprocess.DEVNULL, check=True)
        shape_rows(folder)
        theirs = [__file__, "--folder", temporary, "--base", str(base)]
        if pythons.get("litgpt"):
            subprocess.run([str(pythons["litgpt"]), *theirs, "--side", "convert"], stdout=sys.stderr, check=True)
        sides = []
        for name in names:
            python = pythons.get(name.partition(":")[0], sys.executable)
            if python is not None:
                command = mine if python == sys.executable else [str(python), *theirs]
                sides.append(Side.start(name, [*command, "--side", name], folder / f"{len(sides)}.log"))
        in_turn(sides, given.steps)
        trainer.finish(folder, sides, given.rows)


if __name__ == "__main__":
    main()
