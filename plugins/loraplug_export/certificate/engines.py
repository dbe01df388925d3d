"""Whoever is asked: what every engine answers, and the model in torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from attrs import define, frozen

from loraplug_export.certificate.conversations import Message, prompt_ids

if TYPE_CHECKING:
    from torch import Tensor

Listed = Mapping[int, float]
"""Log-probabilities (nats) of the likeliest next tokens, by token id."""


@frozen
class ChatAnswer:
    """An answer through an engine's own chat path.

    Attributes:
        prompt_tokens: how many tokens the engine says it was asked; None where it does not say.
        ended: the answer has come to its end, not to its longest length.
        listed: log-probabilities position by position, where the engine gives them with the answer.
    """

    text: str
    prompt_tokens: int | None
    ended: bool
    listed: Sequence[Listed] = ()


class Engine(ABC):
    """One of those that must agree. What it cannot tell is None, and is reported as not looked at."""

    name: str

    @abstractmethod
    def prompt(self, messages: Sequence[Message]) -> list[int] | None:
        """Token ids that its chat path makes of a conversation."""

    @abstractmethod
    def continued(self, ids: Sequence[int], answer: Sequence[int]) -> list[Listed] | None:
        """What follows after `ids`, and after each token of `answer` but the last: log-probabilities each time.

        The likeliest of each is what it would say greedily, as long as it has said the same.
        """

    @abstractmethod
    def ends_at(self, messages: Sequence[Message], ids: Sequence[int], token: int) -> bool | None:
        """Whether the answer ends when this token comes."""

    def chat(self, messages: Sequence[Message], count: int) -> ChatAnswer | None:  # noqa: ARG002
        """A greedy answer of at most `count` tokens through the chat path of its users."""
        return None

    def close(self) -> None:
        """Let go of what it holds."""
        return


@define
class TorchEngine(Engine):
    """A model of transformers in this process.

    Attributes:
        around: entered for each forward pass; for a model of peft `disable_adapter` makes the base of it.
        stops: ids that end an answer.
    """

    name: str
    model: Any
    tokenizer: Any
    stops: frozenset[int]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """As `Engine`."""
        return prompt_ids(self.tokenizer, messages)

    def logs(self, ids: Sequence[int], answer: Sequence[int]) -> Tensor:
        """Log-probabilities of every token at the positions of `answer`, fp32, (len(answer), vocabulary)."""
        import torch

        given = torch.tensor([[*ids, *answer[:-1]]], device=self.model.device)
        with torch.inference_mode(), self.around():
            logits = self.model(input_ids=given, use_cache=False, logits_to_keep=len(answer)).logits[0]
        return logits.float().log_softmax(dim=-1)

    def continued(self, ids: Sequence[int], answer: Sequence[int]) -> list[Listed]:
        """As `Engine`; the likeliest 200."""
        found = self.logs(ids, answer).topk(200 if self.vocabulary > 200 else self.vocabulary)
        rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [dict(zip(numbers, values, strict=True)) for numbers, values in rows]

    @property
    def vocabulary(self) -> int:
        """Rows of its output matrix."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    def answer(self, ids: Sequence[int], count: int) -> list[int]:
        """At most `count` greedy token ids, the end token with them where it comes to that."""
        import torch
        from transformers import GenerationConfig

        ends = sorted(self.stops)
        greedy = GenerationConfig(do_sample=False, max_new_tokens=count, eos_token_id=ends or None, pad_token_id=0)
        given = torch.tensor([list(ids)], device=self.model.device)
        with torch.inference_mode(), self.around():
            made = self.model.generate(given, attention_mask=torch.ones_like(given), generation_config=greedy)
        return [int(number) for number in made[0, len(ids) :]]

    def ends_at(self, messages: Sequence[Message], ids: Sequence[int], token: int) -> bool:  # noqa: ARG002
        """As `Engine`."""
        return token in self.stops


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer in transformers: the generation config's and the tokenizer's."""
    named = model.generation_config.eos_token_id
    found = {tokenizer.eos_token_id, *(named if isinstance(named, list | tuple) else [named])}
    return frozenset(found - {None})
