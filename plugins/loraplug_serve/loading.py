"""Loads what `open_model` has found, ready to answer with its adapter and without it."""

from __future__ import annotations

from attrs import frozen

from loraplug import ModelReference, Run
from loraplug_serve.chat_model import ChatModel
from loraplug_serve.prompt import Prompter


@frozen
class Loaded:
    """A model ready to answer, and its base; `base` is None where the model is not known to come from another."""

    tuned: ChatModel
    base: ChatModel | None = None


def load(opened: ModelReference, run: Run, where: object) -> Loaded:
    """Load model and tokenizer; with an adapter, one model in memory speaks with it and without it.

    Args:
        where: the model as the user named it; errors name it.

    Raises:
        InputError: as `ModelReference.load`, or there is no chat template.
    """
    model, tokenizer = opened.load(run, where)
    prompter = Prompter.of(tokenizer, where)
    base = None if opened.adapter is None else ChatModel(model, prompter, model.disable_adapter)
    return Loaded(ChatModel(model, prompter), base)
