"""Token by token: a forward pass, a choice, and the cache that spares the next pass what is done already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from attrs import define, frozen

from loraplug import InputError

if TYPE_CHECKING:
    from torch import Tensor


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
class Memory:
    """Keys and values of tokens that a model has read, so that a conversation that goes on need not be read again."""

    ids: list[int]
    cache: Any = None

    def shared(self, ids: Sequence[int]) -> int:
        """Cut the cache down to the tokens that `ids` begins with, all but its last; how many those are."""
        from transformers.cache_utils import DynamicLayer

        same = next((n for n, (a, b) in enumerate(zip(self.ids, ids, strict=False)) if a != b), len(self.ids))
        same = min(same, len(ids) - 1)
        if self.cache is None or any(type(layer) is not DynamicLayer for layer in self.cache.layers):
            same = 0  # layers with a window, or a running state, cannot go back
        if same == 0:
            self.cache, self.ids = None, []
        elif same < len(self.ids):
            self.cache.crop(same - len(self.ids))
            self.ids = self.ids[:same]
        return same


def generate(
    model: Any,
    ids: Sequence[int],
    stops: Collection[int],
    sampling: Sampling,
    memory: Memory,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[int]:
    """Yield the ids of an answer to `ids`; one of `stops`, which is yielded too, or the longest length ends it.

    Args:
        memory: what the model has read before; holds what it has read now when the iterator is left, at any moment.
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
    start = memory.shared(ids)
    for _ in range(min(sampling.max_tokens, (context or len(ids) + sampling.max_tokens) - len(ids))):
        given = torch.tensor([text[start:]], device=model.device)
        cache, memory.cache = memory.cache, None  # what an interruption leaves half-written is not used again
        with torch.inference_mode(), around():
            out = model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1)
        memory.cache, memory.ids, start = out.past_key_values, list(text), len(text)
        token = choose(text, out.logits[:, -1].float())
        yield token
        if token in stops:
            return
        text.append(token)


def _chooser(model: Any, sampling: Sampling) -> Callable[[Sequence[int], Tensor], int]:
    """A function from the ids so far and logits of shape (1, vocabulary) to the next id."""
    import torch
    from transformers.generation import logits_process as process

    config = model.generation_config
    temperature = sampling.temperature
    if temperature is None:
        temperature = (1.0 if config.temperature is None else config.temperature) if config.do_sample else 0.0
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
