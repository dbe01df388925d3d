"""Tiny models: two adapters on one base, one that was trained to call a function, one whose answers never end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from serve_helpers import ASKED, TOOL

TEMPLATE = """\
{%- if tools %}<|im_start|>system
tools: {{ tools[0].function.name }}<|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if message.content == 'raise' %}{{ raise_exception('this template does not like it') }}{% endif -%}
<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""
CALLED = '<think>\nhm\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 1}}\n</tool_call>'


@pytest.fixture(scope="session")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two random adapters on the tiny model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp("adapters") / f"adapter-{seed}"
        torch.manual_seed(seed)
        lora = LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", init_lora_weights=False,
                          task_type="CAUSAL_LM")  # fmt: skip
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora).save_pretrained(folder)
        folders.append(folder)
    return folders


@pytest.fixture(scope="session")
def caller(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, trained until it thinks and then calls the function when there is one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("caller") / "caller"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(ASKED, tools=[TOOL], add_generation_prompt=True)["input_ids"]
    answer = [*tokenizer(CALLED, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ids = torch.tensor([[*prompt, *answer]])
    labels = ids.clone()
    labels[:, : len(prompt)] = -100
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(150):
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def endless(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a long context, whose answers are letters a or b and never end."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("endless") / "endless"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1_000_000}))
    weights = load_file(folder / "model.safetensors")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    head = weights["lm_head.weight"].zero_()
    head[vocabulary["a"]], head[vocabulary["b"]] = 1e-3, -1e-3  # whatever the state, one of the two is the likeliest
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
