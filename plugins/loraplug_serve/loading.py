"""Loads a model for chat, with its adapter and without it."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from loraplug import ModelReference, Prompter, Run
from loraplug_serve.chat_model import ChatBackend, ChatModel, Message


@frozen
class Loaded:
    """A model ready to answer, and its base; `base` is None where the model is not known to come from another."""

    tuned: ChatBackend
    base: ChatBackend | None = None


@frozen
class InMemory(Loaded):
    """The same of models in this process."""

    tuned: ChatModel
    base: ChatModel | None = None


def load(opened: ModelReference, run: Run, where: object) -> InMemory:
    """Load model and tokenizer; an adapter and its base share one model in memory.

    Args:
        where: the model as the user named it; errors name it.

    Raises:
        InputError: as `ModelReference.load`, or there is no chat template.
    """
    model, tokenizer = opened.load(run, where)
    prompter = Prompter.of(tokenizer, where)

    def encode(messages: Sequence[Message]) -> list[int]:
        return opened.encode_prompt(messages, tokenizer, run)

    base = None if opened.adapter is None else ChatModel(model, prompter, encode, model.disable_adapter)
    return InMemory(ChatModel(model, prompter, encode), base)
