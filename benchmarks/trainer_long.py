"""Long and large trainings with loraplug: do step time and memory stay constant, and what does QLoRA save?

    python benchmarks/trainer_long.py tiny                    # 1,000 steps of a random two-layer model
    python benchmarks/trainer_long.py small                   # 100 steps of SmolLM2-135M
    python benchmarks/trainer_long.py billion --tmp /dev/shm  # takes 2.2 GB there: QLoRA beside LoRA, 3 steps each

`tiny` and `small` train rows of one length and print the median time of a step (wall and CPU, milliseconds) and the
resident memory, by stretches of the run. `billion` makes a random Llama of 1.1 billion parameters (TinyLlama's sizes)
and prints peak memory: `VmHWM`, which counts pages of mapped files, and the most that was not files.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from turns import memory

WARM = 10  # steps that are left out: allocators and caches fill
SIZES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 400}
    | {"num_attention_heads": 4, "num_key_value_heads": 2},
    "billion": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "vocab_size": 32000}
    | {"num_attention_heads": 32, "num_key_value_heads": 4, "tie_word_embeddings": False},
}
ROW = {"tiny": 64, "small": 32, "billion": 256}
STEPS = {"tiny": 1000, "small": 100, "billion": 3}


class Record:
    """Stands in for the gate of turns.py: lets every step pass and keeps what it took."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.anonymous = 0

    def open(self, **_: Any) -> None:
        """Training begins; the model is loaded and has its adapters."""
        self.loaded = memory("VmHWM")
        self.now = time.perf_counter(), time.process_time()

    def step(self, loss: float) -> None:
        """A step is done."""
        wall, cpu = time.perf_counter(), time.process_time()
        step = {"wall": wall - self.now[0], "cpu": cpu - self.now[1], "resident": memory("VmRSS"), "loss": loss}
        self.steps.append(step)
        self.now = wall, cpu

    def watch(self) -> None:
        """Keep the most memory that was not files, from now on."""
        while True:
            self.anonymous = max(self.anonymous, memory("RssAnon"))
            time.sleep(0.02)


def make_model(size: str, out: Path) -> None:
    """A random Llama, in bfloat16 on disk, beside SmolLM2's tokenizer (which nothing here asks for a token)."""
    import torch
    import trainer
    from transformers import LlamaConfig, LlamaForCausalLM

    from loraplug import Run
    from loraplug_hf.loader import TransformersModel

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if size == "billion" else torch.float32)
    config = LlamaConfig(max_position_embeddings=2048, pad_token_id=0, eos_token_id=2, **SIZES[size])
    LlamaForCausalLM(config).save_pretrained(out, max_shard_size="500MB")
    TransformersModel(id=trainer.MODEL).load_tokenizer(Run("benchmark", outputs=out)).save_pretrained(out)


def child(size: str, model: str, out: Path, bits: int) -> None:
    """Train, and print every step."""
    import trainer
    from datasets import Dataset

    draw, vocabulary = random.Random(0), SIZES.get(size, SIZES["billion"])["vocab_size"]  # noqa: S311 - made-up rows
    ids = [[draw.randrange(3, vocabulary) for _ in range(ROW[size])] for _ in range(4 * min(STEPS[size], 100))]
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids, "row": [[str(n)] for n in range(len(ids))]})
    record = Record()
    threading.Thread(target=record.watch, daemon=True).start()
    batch = 1 if size == "billion" else 4
    trainer.ours(record, out, rows, model, bits, max_steps=STEPS[size], batch_size=batch)  # type: ignore[arg-type]
    print(
        json.dumps(
            {"steps": record.steps, "peak": memory("VmHWM"), "loaded": record.loaded, "anonymous": record.anonymous}
        )
    )


def measure(size: str, model: str, folder: Path, bits: int = 0) -> dict[str, Any]:
    """One training in a process of its own."""
    command = [sys.executable, __file__, size, "--child", model, "--bits", str(bits), "--tmp", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def stretches(taken: dict[str, Any]) -> None:
    """Print the run by tenths, after the warm-up."""
    steps = taken["steps"][WARM:]
    length = max(1, len(steps) // 10)
    print(f"{'steps':>12}{'wall ms':>9}{'CPU ms':>9}{'resident MB':>13}")
    for at in range(0, len(steps) - length + 1, length):
        part = steps[at : at + length]
        wall, cpu = (1e3 * median(step[key] for step in part) for key in ("wall", "cpu"))
        span = f"{WARM + at + 1}-{WARM + at + length}"
        print(f"{span:>12}{wall:9.1f}{cpu:9.1f}{part[-1]['resident'] / 1e6:13.1f}")
    first, last = (median(step["cpu"] for step in part) for part in (steps[:length], steps[-length:]))
    grown = (steps[-1]["resident"] - steps[0]["resident"]) / 1e6
    print(f"last tenth / first tenth: {last / first:.3f} of the CPU time; memory grown by {grown:.1f} MB")


def main() -> None:
    """Make what is needed, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=list(STEPS))
    parser.add_argument("--tmp", type=Path, help="where to make models")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--bits", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child == "make":
        make_model(given.size, given.tmp)
        return
    if given.child:
        child(given.size, given.child, given.tmp, given.bits)
        return
    import trainer

    with tempfile.TemporaryDirectory(dir=given.tmp) as temporary:
        folder, model = Path(temporary), trainer.MODEL
        if given.size != "small":
            model = str(folder / "model")
            command = [sys.executable, __file__, given.size, "--child", "make", "--tmp", model]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        if given.size != "billion":
            stretches(measure(given.size, model, folder / "run"))
            return
        taken = {name: measure("billion", model, folder / name, bits) for name, bits in (("LoRA", 0), ("QLoRA", 4))}
        heads = f"{'peak GB':>9}{'before the steps':>18}{'not files GB':>14}{'step s':>8}{'CPU s':>7}{'last loss':>11}"
        print(" " * 8 + heads)
        for name, one in taken.items():
            wall, cpu = (median(step[key] for step in one["steps"]) for key in ("wall", "cpu"))
            peak, loaded, anonymous = (one[key] / 1e9 for key in ("peak", "loaded", "anonymous"))
            loss = one["steps"][-1]["loss"]
            print(f"{name:8}{peak:9.2f}{loaded:18.2f}{anonymous:14.2f}{wall:8.1f}{cpu:7.1f}{loss:11.4f}")
        ratio = {key: taken["QLoRA"][key] / taken["LoRA"][key] for key in ("peak", "anonymous")}
        print(f"QLoRA / LoRA: {ratio['peak']:.2f} of the peak, {ratio['anonymous']:.2f} of what is not files")


if __name__ == "__main__":
    main()
