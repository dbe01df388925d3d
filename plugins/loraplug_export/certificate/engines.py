"""The interface of inference engines that are compared, and the engine for transformers."""

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
"""Log-probabilities (nats) of the most likely next tokens, by token id."""


@frozen
class ChatAnswer:
    """An answer from an engine's chat interface.

    Attributes:
        prompt_tokens: number of prompt tokens that the engine reports; None if it does not.
        ended: the answer ended by itself, not at the maximum length.
        listed: log-probabilities by position, if the engine returns them with the answer.
    """

    text: str
    prompt_tokens: int | None
    ended: bool
    listed: Sequence[Listed] = ()


class Engine(ABC):
    """An engine whose answers must agree with the reference. Methods return None for what it cannot report."""

    name: str

    @abstractmethod
    def prompt(self, messages: Sequence[Message]) -> list[int] | None:
        """Token ids that its chat interface makes of a conversation."""

    @abstractmethod
    def continued(self, ids: Sequence[int], answer: Sequence[int]) -> list[Listed] | None:
        """Log-probabilities of the next token after `ids`, and after each token of `answer` but the last."""

    @abstractmethod
    def ends_at(self, messages: Sequence[Message], ids: Sequence[int], token: int) -> bool | None:
        """Whether an answer ends at this token."""

    def chat(self, messages: Sequence[Message], count: int) -> ChatAnswer | None:  # noqa: ARG002
        """A greedy answer of at most `count` tokens through its chat interface."""
        return None

    def close(self) -> None:
        """Free its memory, or stop its server."""
        return


@define
class TorchEngine(Engine):
    """A transformers model in this process.

    Attributes:
        adapter_context: entered for each forward pass; `disable_adapter` of a `PeftModel` gives the base.
        stops: ids that end an answer.
    """

    name: str
    model: Any
    tokenizer: Any
    stops: frozenset[int]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """See `Engine`."""
        return prompt_ids(self.tokenizer, messages)

    def logs(self, ids: Sequence[int], answer: Sequence[int]) -> Tensor:
        """Log-probabilities of every token at the positions of `answer`, fp32, (len(answer), vocabulary)."""
        import torch

        given = torch.tensor([[*ids, *answer[:-1]]], device=self.model.device)
        with torch.inference_mode(), self.around():
            logits = self.model(input_ids=given, use_cache=False, logits_to_keep=len(answer)).logits[0]
        return logits.float().log_softmax(dim=-1)

    def continued(self, ids: Sequence[int], answer: Sequence[int]) -> list[Listed]:
        """See `Engine`; the 200 most likely."""
        found = self.logs(ids, answer).topk(200 if self.vocabulary > 200 else self.vocabulary)
        rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [dict(zip(numbers, values, strict=True)) for numbers, values in rows]

    @property
    def vocabulary(self) -> int:
        """The number of rows of its output layer."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    def answer(self, ids: Sequence[int], count: int) -> list[int]:
        """At most `count` greedy token ids, including the end token if it is reached."""
        import torch
        from transformers import GenerationConfig

        ends = sorted(self.stops)
        greedy = GenerationConfig(do_sample=False, max_new_tokens=count, eos_token_id=ends or None, pad_token_id=0)
        given = torch.tensor([list(ids)], device=self.model.device)
        with torch.inference_mode(), self.around():
            made = self.model.generate(given, attention_mask=torch.ones_like(given), generation_config=greedy)
        return [int(number) for number in made[0, len(ids) :]]

    def ends_at(self, messages: Sequence[Message], ids: Sequence[int], token: int) -> bool:  # noqa: ARG002
        """See `Engine`."""
        return token in self.stops


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer: those of the generation config and of the tokenizer."""
    named = model.generation_config.eos_token_id
    found = {tokenizer.eos_token_id, *(named if isinstance(named, list | tuple) else [named])}
    return frozenset(found - {None})
