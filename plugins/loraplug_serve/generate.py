"""Token by token: a forward pass, a choice, and the cache that spares the next pass what is done already."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from attrs import define, frozen

from loraplug import InputError

if TYPE_CHECKING:
    from torch import Tensor

_ONE_AT_A_TIME = threading.Lock()
"""A stopped answer's last forward pass may still be at work when the next answer begins."""


@frozen
class Sampling:
    """How an answer's tokens are chosen; None leaves it to the model's generation config.

    Attributes:
        temperature: 0 takes the likeliest token each time.
        top_p: only the likeliest tokens that together have this probability.
        max_tokens: the longest answer, in tokens.
        seed: makes the same draws again; None draws anew.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int = 1024
    seed: int | None = None


@define
class PrefixCache:
    """Token ids that a model has read, and their keys and values: a conversation that goes on is not read again."""

    kept: tuple[list[int], Any] | None = None

    def take(self, ids: Sequence[int]) -> tuple[int, Any]:
        """Hand out the cache, cut to the tokens that `ids` begins with, and how many those are: less than all."""
        from transformers.cache_utils import DynamicLayer

        kept, self.kept = self.kept, None
        if kept is None:
            return 0, None
        read, cache = kept
        same = next((n for n, (a, b) in enumerate(zip(read, ids, strict=False)) if a != b), min(len(read), len(ids)))
        same = min(same, len(ids) - 1)
        # layers with a window, or a running state, cannot go back
        if same == 0 or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return 0, None
        if same < len(read):
            cache.crop(same - len(read))
        return same, cache


def generate(
    model: Any,
    ids: Sequence[int],
    stops: Collection[int],
    sampling: Sampling,
    memory: PrefixCache,
    adapter_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[int]:
    """Yield the ids of an answer to `ids`; one of `stops`, which is yielded too, or the longest length ends it.

    Args:
        memory: what the model has read before; holds what it has read now when the iterator is left between tokens.
        around: entered for each forward pass, and for nothing else.

    Raises:
        InputError: the prompt is longer than the model's context.
    """
    import torch

    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and len(ids) >= context:
        what = f"the conversation has {len(ids)} tokens, and the model reads at most {context}"
        raise InputError(what, todo="begin a new conversation")
    choose = _chooser(model, sampling)
    text = list(ids)
    most = sampling.max_tokens if context is None else min(sampling.max_tokens, context - len(ids))
    start, cache = memory.take(ids)
    try:
        for _ in range(most):
            given = torch.tensor([text[start:]], device=model.device)
            start = -1  # until the pass is through, the cache is half-written
            with _ONE_AT_A_TIME, torch.inference_mode(), adapter_context():
                out = model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, start = out.past_key_values, len(text)
            token = choose(text, out.logits[:, -1].float())
            yield token
            if token in stops:
                return
            text.append(token)
    finally:
        if start > 0:
            memory.kept = text[:start], cache


def own_temperature(config: Any) -> float:
    """What a model's generation config says; 0 where it does not ask for sampling."""
    if not config.do_sample:
        return 0.0
    return 1.0 if config.temperature is None else float(config.temperature)


def _chooser(model: Any, sampling: Sampling) -> Callable[[Sequence[int], Tensor], int]:
    """A function from the ids so far and logits of shape (1, vocabulary) to the next id."""
    import torch
    from transformers.generation import logits_process as process

    config = model.generation_config
    temperature = own_temperature(config) if sampling.temperature is None else sampling.temperature
    steps = process.LogitsProcessorList()
    if config.repetition_penalty not in (None, 1.0):
        steps.append(process.RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if temperature > 0:
        steps.append(process.TemperatureLogitsWarper(temperature))
        if config.top_k:
            steps.append(process.TopKLogitsWarper(config.top_k))
        top_p = config.top_p if sampling.top_p is None else sampling.top_p
        if top_p is not None and top_p < 1:
            steps.append(process.TopPLogitsWarper(top_p))
        if config.min_p is not None:
            steps.append(process.MinPLogitsWarper(config.min_p))
    draw = torch.Generator(model.device)
    draw.manual_seed(torch.seed() if sampling.seed is None else sampling.seed)

    def choose(text: Sequence[int], logits: Tensor) -> int:
        scores = steps(torch.tensor([text], device=logits.device), logits)
        if temperature == 0:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(-1), 1, generator=draw))

    return choose
