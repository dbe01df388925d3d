"""The conversations that engines are asked, and their token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, str]

_TALKS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "Write a Python function that returns the n-th Fibonacci number."),),
    (("user", "What is the capital of France? Answer in one sentence."),),
    (("system", "You are terse."), ("user", "Name three fruits.")),
    (("user", "Hi!"), ("assistant", "Hello. What can I do for you?"), ("user", "Fix this: for i in range(3) print(i)")),
    (("user", "Traceback (most recent call last):\n  File \"app.py\", line 3, in <module>\nKeyError: 'name'"),),
    (("user", "  naïve café — 你好, 12345 £  \n\n\tΩ≈ç√ 🎉"),),
)


def conversations(tokenizer: Any) -> list[list[Message]]:
    """The built-in conversations that the chat template accepts: some accept no system message, some only one turn."""
    from jinja2.exceptions import TemplateError

    found = []
    for talk in _TALKS:
        messages: list[Message] = [{"role": role, "content": text} for role, text in talk]
        try:
            prompt_ids(tokenizer, messages)
        except (TemplateError, TypeError, ValueError, KeyError, IndexError):
            continue
        found.append(messages)
    return found


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation with a generation prompt, as in training."""
    text = tokenizer.apply_chat_template([dict(one) for one in messages], tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
