"""Tokens that a model gets for a training: rows of its embedding and of its output layer that are new, and trained.

peft keeps them in the adapter as values, not as differences (`trainable_token_indices`), so that an adapter fits a base
whose new rows began otherwise. The loader that adds tokens marks a model with their numbers; who puts adapters on it
asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MARK = "loraplug_new_tokens"


def mark_new_tokens(model: Any, numbers: Sequence[int]) -> None:
    """Have a model say which of its tokens are to be trained with every adapter.

    Args:
        model: a causal language model of transformers, whose embedding and output layer have rows for them.
        numbers: token ids.
    """
    setattr(model, _MARK, tuple(numbers))


def new_tokens(model: Any) -> tuple[int, ...]:
    """The token ids that `mark_new_tokens` gave a model; of a `PeftModel`, its base's."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    return tuple(getattr(base, _MARK, ()))


def token_ends(model: Any) -> tuple[str, ...]:
    """Names of the modules with a row for each token: the embedding, and the output layer if it is not tied to it."""
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    ends = [names[id(embedding)]]
    if output is not None and output.weight is not embedding.weight:
        ends.append(names[id(output)])
    return tuple(ends)


def grow_for_adapter(model: Any, config: Any) -> None:
    """Give a model, in place, the rows for tokens that an adapter trains and that its embedding does not have.

    Their values are the adapter's own once it is on the model.

    Args:
        config: peft's config of the adapter.
    """
    import torch

    most = 1 + max((max(ids, default=-1) for ids in _trained(config).values()), default=-1)
    if most > model.get_input_embeddings().weight.shape[0]:
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(most, mean_resizing=False)


def _trained(config: Any) -> Mapping[str, Sequence[int]]:
    found = getattr(config, "trainable_token_indices", None) or {}
    return found if isinstance(found, Mapping) else {"": found}
