"""Checks before training that sample rows have the token ids of inference, also with the saved tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

from loraplug import Conversation, LoraplugError
from loraplug_chat.compat import compiled
from loraplug_chat.mask import Encoded
from loraplug_chat.template import TemplateInput

Sample = tuple[Conversation, Encoded]


def check(tokenizer: Any, samples: Sequence[Sample]) -> None:
    """Compare ids with `apply_chat_template`: of whole rows, of the prompt before each trained turn, and both again
    with the tokenizer as a folder written for an adapter brings it back.

    Rows with control-token text are left out: there `apply_chat_template` would make control tokens of it.

    Raises:
        LoraplugError: training and inference would see different ids; names row and place.
    """
    from transformers import AutoTokenizer

    samples = [sample for sample in samples if not sample[1].has_special_text]
    if not samples:
        return
    _compare(tokenizer, samples, "the tokenizer")
    with tempfile.TemporaryDirectory(prefix="loraplug-gate-") as folder:
        tokenizer.save_pretrained(folder)
        # code that the recipe trusts is saved with the tokenizer and runs already; without it there is none to run
        code = type(tokenizer).__module__.startswith("transformers_modules.")
        saved = AutoTokenizer.from_pretrained(folder, trust_remote_code=code)
        _compare(saved, samples, "the saved tokenizer")


def _compare(tokenizer: Any, samples: Sequence[Sample], which: str) -> None:
    compiled(tokenizer.get_chat_template())  # from here on it is told the date that the rows were written with
    for conversation, row in samples:
        talk = TemplateInput.of(conversation)
        if not row.boundary_split:
            ids = _ids(tokenizer, talk, len(talk.messages), prompt=False)
            _same(ids, row.ids[: len(ids)], conversation.id, f"the row through {which}")
        if not row.same_prompts:
            continue
        for message, first, _ in row.turns:
            ids = _ids(tokenizer, talk, message, prompt=True)
            _same(ids, row.ids[:first], conversation.id, f"the prompt before turn {message} through {which}")


def _ids(tokenizer: Any, talk: TemplateInput, upto: int, *, prompt: bool) -> list[int]:
    messages, options = talk.messages[:upto], {"tools": talk.tools, "add_generation_prompt": prompt}
    ids: list[int]
    if any(message.get("content", "") is None for message in messages):  # which `apply_chat_template` would leave out
        from transformers.utils.chat_template_utils import render_jinja_template

        template = tokenizer.get_chat_template()
        (text,), _ = render_jinja_template(
            [messages], chat_template=template, **options, **tokenizer.special_tokens_map
        )
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
    ids = tokenizer.apply_chat_template(messages, return_dict=False, **options)
    return ids


def _same(inference: list[int], training: list[int], row: str, what: str) -> None:
    if inference == training:
        return
    at = next((i for i, (a, b) in enumerate(zip(inference, training, strict=False)) if a != b), -1)
    raise LoraplugError(
        f"training and inference would have different tokens: {what} differs from token {at} on",
        where=row,
        todo="report this with the model's name; its tokenizer cannot be used for training",
    )
