"""A tiny model that was trained until it thinks and then calls a function."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "adds",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    },
}
ASKED = [{"role": "user", "content": "what is 3 and one?"}]


def calling_model(tiny_model: Path, folder: Path) -> Path:
    """Train it; asked `ASKED` with `TOOL`, or with the system message "tools: add", it answers `CALLED`."""
    return taught(tiny_model, folder, [(ASKED, [TOOL], CALLED)])


def taught(tiny_model: Path, folder: Path, lessons: Sequence[tuple[Any, Any, str]], steps: int = 150) -> Path:
    """The tiny model, trained on messages, tools and the answer to them until it knows them by heart."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    rows = []
    for messages, tools, said in lessons:
        prompt = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True)["input_ids"]
        answer = [*tokenizer(said, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor([[*prompt, *answer]])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        rows.append((ids, labels))
    for _ in range(steps):
        losses = [model(ids, labels=labels).loss for ids, labels in rows]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
    assert max(losses) < 0.05
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
