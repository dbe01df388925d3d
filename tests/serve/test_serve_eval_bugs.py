"""`loraplug eval URL#NAME` on bugs of the sample package, to the verdicts: they are those of the adapter in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from serve_helpers import serving

from command import ROOT
from loraplug_swe.edits import render
from loraplug_swe.evaluation.bench import Checking
from loraplug_swe.evaluation.cases import Case, PromptOptions
from loraplug_swe.evaluation.reading import Task, read_tasks
from loraplug_swe.evaluation.workroom import Workroom

TASKS, CODE = ROOT / "data/sample_tasks", ROOT / "data/sample_package"
IDS = ("16", "24", "61")  # short functions


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[str, str]]:
    """Prompts and answers by task: the first is right, the second leaves the bug, the third is none."""
    tasks = {one.id: one for one in read_tasks(TASKS) if isinstance(one, Task)}
    with Workroom({"": str(CODE)}, None, Checking(), tmp_path_factory.mktemp("scratch"), False) as room:
        cases = [room.prepare(tasks[name], PromptOptions("lines", "function")) for name in IDS]
    right, same, none = (case for case in cases if isinstance(case, Case))

    def answer(case: Case, fixed: Any) -> str:
        ((path, broken),) = case.broken.items()
        return render(path, broken, fixed(broken, (CODE / path).read_text()), "lines", target=case.target)

    def commented(broken: str, clean: str) -> str:
        pairs = zip(broken.splitlines(), clean.splitlines(), strict=True)
        return "\n".join(bad if bad == good else f"{bad}  # right" for bad, good in pairs) + "\n"

    return {
        right.task.id: (right.instruction, answer(right, lambda _, clean: clean)),
        same.task.id: (same.instruction, answer(same, commented)),
        none.task.id: (none.instruction, "nothing is wrong"),
    }


@pytest.fixture(scope="module")
def models(tiny_model: Path, lessons: Mapping[str, tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, a tiny model with room for such prompts, and `fixer`, an adapter that knows the answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, max_position_embeddings=1024)
    with torch.no_grad():
        base.model.embed_tokens.weight.mul_(20)  # as drawn they are so small that tokens look alike
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    tuned = get_peft_model(base, LoraConfig(r=64, lora_alpha=64, target_modules=layers, task_type="CAUSAL_LM"))
    learn(tuned, tokenizer, list(lessons.values()))
    tuned.save_pretrained(folder / "fixer")
    tokenizer.save_pretrained(folder / "fixer")
    return folder


def learn(model: Any, tokenizer: Any, lessons: Sequence[tuple[str, str]]) -> None:
    """Train it until it knows the answers by heart."""
    import torch

    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], 5e-3)
    rows = []
    for asked, said in lessons:
        messages = [{"role": "user", "content": asked}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        ids = [*prompt, *tokenizer(said, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        rows.append((torch.tensor([ids]), torch.tensor([[-100] * len(prompt) + ids[len(prompt) :]])))
    for _ in range(300):
        losses = [model(ids, labels=labels).loss for ids, labels in rows]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        if max(losses) < 0.02:
            return
    raise AssertionError(losses)


@pytest.mark.slow
def test_verdicts_at_a_url_are_those_of_the_adapter(
    models: Path, lessons: Mapping[str, tuple[str, str]], inside: Any, tmp_path: Path
) -> None:
    """Greedy: the same answers, tokens and verdicts, of the adapter and of its base; one bug is fixed."""
    words = ["--tasks", TASKS, "--repo", CODE, "--ids", ",".join(IDS), "--edit", "lines", "--context", "function",
             "--suite", "related", "--max-tokens", 80, "--temperature", 0, "--json"]  # fmt: skip

    def cases(*models: object) -> dict[tuple[str, str], dict[str, Any]]:
        done = inside("eval", *models, *words, "--out", "here" if isinstance(models[0], Path) else "there")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["unfit"] == []
        return {(one.pop("model"), one.pop("task")): one for one in told["cases"] if one.pop("seconds") is not None}

    here = cases(models / "fixer", "--base", models / "base")
    with serving(tmp_path, f"fixer={models / 'fixer'}", f"base={models / 'base'}") as server:
        there = cases(f"{server.address}#fixer", "--base", f"{server.address}#base")
    for key, one in there.items():  # a server's count of tokens has the end of the turn
        one["tokens"] -= one["finish"] == "stop"
        assert one == here[key], key
    assert len(here) == len(there) == 6
    assert {name: here["model", name]["answer"].strip() for name in IDS} == {
        name: said.strip() for name, (_, said) in lessons.items()
    }
    assert [here["model", name]["status"] for name in IDS] == ["resolved", "applied", "invalid"]
    assert {here["base", name]["status"] for name in IDS} == {"invalid"}
