"""Training quality of the defaults: validation loss compared with trl's own trainer, and a sweep of the LoRA defaults.

    python benchmarks/quality.py --data DIR                  # 300 held-in rows, 100 held out, 3 seeds, ours and trl
    python benchmarks/quality.py --data DIR --sweep          # ours with other learning rates, ranks, schedules …
    python benchmarks/quality.py --data DIR --longest 200    # shorter rows, for slow machines

DIR holds alpaca_en_demo.json. The 400 rows are drawn from those of at most `--longest` tokens; the split is the same
for everybody. Both trainers get the same encoded rows and masks, the same hyper-parameters (ours) and one epoch.
Held-out loss is the mean cross-entropy of all trained tokens of the held-out rows, in nats, computed by the same code
here. trl runs with a row a batch and no checkpointing: the same losses (see trainer.py) in half the time.

The sweep halves: every configuration trains on a quarter of the rows, each with its own whole schedule, the best five
on half of them, and the best three on all. Results are appended to `--results`, and what is there already is not done
again, so that a sweep can be stopped at any time.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

HELD_IN, HELD_OUT, SEEDS = 300, 100, (1, 2, 3)
DEFAULTS = {"learning_rate": 5e-4, "r": 16, "alpha": 32, "scheduler": "cosine", "warmup_ratio": 0.05, "batch_size": 4}
SWEEP: list[dict[str, Any]] = [
    {},
    {"learning_rate": 2e-4},
    {"learning_rate": 1e-3},
    {"learning_rate": 2e-3},
    {"r": 8, "alpha": 16},
    {"r": 32, "alpha": 64},
    {"learning_rate": 1e-3, "alpha": 16},
    {"scheduler": "linear"},
    {"scheduler": "constant", "warmup_ratio": 0.0},
    {"learning_rate": 1e-3, "batch_size": 8},
]
ROUNDS = {HELD_IN // 4: 5, HELD_IN // 2: 3, HELD_IN: 1}  # rows trained on, and how many configurations go on


def make_rows(data: Path, longest: int, out: Path) -> None:
    """Encode the rows, draw 400 of those that are short enough, and part them."""
    import trainer
    from datasets import Dataset

    from loraplug import Run
    from loraplug_chat.formatter import ChatTemplate
    from loraplug_hf.loader import TransformersModel

    run = Run("benchmark", outputs=out)
    given = Dataset.from_list(trainer.chat_rows(data))
    tokenizer = TransformersModel(id=trainer.MODEL).load_tokenizer(run)
    formatter = ChatTemplate(max_length=longest, packing=False, overlong="drop", max_dropped=1.0)
    encoded = formatter.encode(given, tokenizer, run).dataset
    if len(encoded) < HELD_IN + HELD_OUT:
        sys.exit(f"{len(encoded)} rows have at most {longest} tokens, {HELD_IN + HELD_OUT} are wanted: raise --longest")
    drawn = random.Random(0).sample(range(len(encoded)), HELD_IN + HELD_OUT)  # noqa: S311 - the same draw every time
    encoded.select(drawn[:HELD_IN]).save_to_disk(str(out / "held-in"))
    encoded.select(drawn[HELD_IN:]).save_to_disk(str(out / "held-out"))


def held_out_loss(model: Any, rows: Any) -> float:
    """Mean cross-entropy in nats of every trained token."""
    import torch

    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for row in rows:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
            trained = labels != -100
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1][trained]
            total += float(torch.nn.functional.cross_entropy(logits.float(), labels[trained], reduction="sum"))
            count += int(trained.sum())
    return total / count


def by_us(folder: Path, rows: Any, seed: int, settings: dict[str, Any]) -> Path:
    """The adapter that loraplug leaves."""
    import trainer

    from loraplug import Encoded, Run
    from loraplug_hf.loader import TransformersModel
    from loraplug_train.adapters.lora import Lora
    from loraplug_train.trainer import Sft

    run = Run(f"quality-{time.time_ns()}", seed, outputs=folder)
    loader = TransformersModel(id=trainer.MODEL, dtype="float32")
    given = dict(settings)
    lora = Lora(r=given.pop("r"), alpha=given.pop("alpha"))
    made = Sft(epochs=1.0, samples=0, lora=lora, **given)
    load = partial(loader.load_model, run, None)
    return made.train(run, load, loader.load_tokenizer(run), Encoded(rows), None).path


def by_trl(folder: Path, rows: Any, seed: int, settings: dict[str, Any]) -> Path:
    """The adapter that trl's own trainer leaves."""
    import torch
    import trainer
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, set_seed
    from trl import SFTConfig, SFTTrainer

    from loraplug import Run
    from loraplug_hf.loader import TransformersModel

    run = Run("quality", outputs=folder)
    loader = TransformersModel(id=trainer.MODEL, dtype="float32")
    steps = math.ceil(len(rows) / settings["batch_size"])
    args = SFTConfig(
        output_dir=str(folder / "trl"),
        seed=seed,
        num_train_epochs=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type=settings["scheduler"],
        warmup_steps=int(settings["warmup_ratio"] * steps),
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        save_strategy="no",
        report_to="none",
    )
    lora = LoraConfig(task_type="CAUSAL_LM", r=settings["r"], lora_alpha=settings["alpha"], target_modules="all-linear")
    set_seed(seed)
    made = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(loader.base(run), dtype=torch.float32),
        args=args,
        train_dataset=rows.select_columns(["input_ids", "labels"]),
        processing_class=loader.load_tokenizer(run),
        peft_config=lora,
    )
    made.train()
    made.model.save_pretrained(folder / "trl" / "adapter")
    return folder / "trl" / "adapter"


def child(job: dict[str, Any], folder: Path) -> None:
    """Train and measure; the adapter is loaded anew by peft, whoever made it."""
    import torch
    import trainer
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from loraplug import Run
    from loraplug_hf.loader import TransformersModel

    rows, held_out = (Dataset.load_from_disk(str(folder / name)) for name in ("held-in", "held-out"))
    rows = rows.select(range(job["rows"]))
    begun = time.perf_counter()
    base = TransformersModel(id=trainer.MODEL).base(Run("quality", outputs=folder))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if job["side"] != "untrained":
        train = by_us if job["side"] == "ours" else by_trl
        with tempfile.TemporaryDirectory(dir=folder) as place:
            adapter = train(Path(place), rows, job["seed"], DEFAULTS | job["settings"])
            model = PeftModel.from_pretrained(model, adapter)
    print(json.dumps(job | {"loss": held_out_loss(model, held_out), "seconds": time.perf_counter() - begun}))


class Results:
    """Jobs done, in a file that outlives an interruption."""

    def __init__(self, path: Path, data: Path, longest: int, folder: Path) -> None:
        self.path, self.folder = path, folder
        lines = path.read_text().splitlines() if path.exists() else []
        self.done = [json.loads(line) for line in lines]
        self.rows = {"longest": longest}
        self.command = [sys.executable, __file__, "--data", str(data), "--folder", str(folder)]
        made = [*self.command, "--longest", str(longest), "--job", "rows"]
        run = subprocess.run(made, capture_output=True, text=True, check=False)
        if run.returncode:
            raise SystemExit(run.stderr[-2000:])

    def loss(self, side: str, seed: int = SEEDS[0], rows: int = HELD_IN, **settings: Any) -> float:
        """Held-out loss of one training, done now if it was not."""
        job = self.rows | {"side": side, "seed": seed, "rows": rows, "settings": settings}
        found = [one for one in self.done if {key: one[key] for key in job} == job]
        if not found:
            command = [*self.command, "--job", json.dumps(job)]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode:
                raise SystemExit(run.stderr[-2000:])
            found = [json.loads(run.stdout.splitlines()[-1])]
            self.done += found
            with self.path.open("a") as file:
                file.write(json.dumps(found[0]) + "\n")
            print(json.dumps(found[0]), file=sys.stderr)
        return found[0]["loss"]


def compare(results: Results) -> None:
    """Ours beside trl's, seed by seed."""
    print(f"held-out loss before: {results.loss('untrained'):.4f}")
    sides = ("ours", "trl")
    losses = {side: [] for side in sides}  # type: dict[str, list[float]]
    for turn, seed in enumerate(SEEDS):
        for side in sides if turn % 2 == 0 else reversed(sides):
            losses[side].append(results.loss(side, seed))
    for side, found in losses.items():
        print(f"{side:6}{'  '.join(f'{loss:.5f}' for loss in found)}   mean {mean(found):.5f}, sd {stdev(found):.5f}")
    apart = [a - b for a, b in zip(losses["ours"], losses["trl"], strict=True)]
    print(f"ours - trl: {'  '.join(f'{one:+.1e}' for one in apart)}   mean {mean(apart):+.1e}")


def sweep(results: Results) -> None:
    """Successive halving, as a Markdown table."""
    left, found = list(SWEEP), {json.dumps(one): [] for one in SWEEP}  # type: ignore[var-annotated]
    for rows, keep in ROUNDS.items():
        for one in left:
            found[json.dumps(one)].append(results.loss("ours", rows=rows, **one))
        left = sorted(left, key=lambda one: found[json.dumps(one)][-1])[:keep]
    print(f"| {' | '.join(DEFAULTS)} | {' | '.join(f'{rows} rows' for rows in ROUNDS)} |")
    print("|" + "---|" * (len(DEFAULTS) + len(ROUNDS)))
    for text, losses in sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[1][-1])):
        settings = DEFAULTS | json.loads(text)
        cells = [f"{loss:.4f}" for loss in losses] + [""] * (len(ROUNDS) - len(losses))
        print(f"| {' | '.join(map(str, settings.values()))} | {' | '.join(cells)} |")


def main() -> None:
    """Make the rows, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--longest", type=int, default=256, help="tokens of the longest row taken")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--results", type=Path, default=Path("quality.jsonl"))
    for hidden in ("--job", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job == "rows":
        make_rows(given.data, given.longest, Path(given.folder))
        return
    if given.job:
        child(json.loads(given.job), Path(given.folder))
        return
    with tempfile.TemporaryDirectory() as temporary:
        results = Results(given.results, given.data, given.longest, Path(temporary))
        (sweep if given.sweep else compare)(results)


if __name__ == "__main__":
    main()
