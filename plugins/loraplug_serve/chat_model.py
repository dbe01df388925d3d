"""Streaming chat: the interface of chat models, and a model in memory; `remote` has one at a URL."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from attrs import asdict, define, field, frozen

from loraplug import InputError, Prompter
from loraplug_serve.drawing import drawing_of, own_temperature
from loraplug_serve.forms import THINK, Call, Form, Parts, form_of, shown_tokens
from loraplug_serve.sampling import Prefixes, Running, context_of
from loraplug_serve.text import Pieces

Message = Mapping[str, Any]
Piece = tuple[str, str]
"""("reasoning", text), ("content", text) or ("call", the function's name and its arguments as JSON)."""


@frozen
class Sampling:
    """Sampling options; None takes the value of the model's generation config.

    Attributes:
        temperature: 0 is greedy decoding.
        top_p: nucleus sampling: the most probable tokens up to this total probability.
        max_tokens: the longest answer, in tokens.
        seed: of the random numbers; None takes a new one each time.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int = 1024
    seed: int | None = None


@define
class Answer:
    """An answer that is being generated; `finish` is "stop" or "length", and "interrupted" until it has ended.

    Attributes:
        text: the whole answer as generated, with reasoning and tool calls.
        content: the part for the reader.
        reasoning: the part that is reasoning.
        calls: the tool calls.
        first_token_seconds: from the start to the first token.
        seconds: from the start to the last token.
    """

    text: str = ""
    finish: str = "interrupted"
    prompt_tokens: int = 0
    tokens: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0
    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(factory=list)

    @property
    def rate(self) -> float:
        """Tokens per second after the first; 0 for a shorter answer."""
        taken = self.seconds - self.first_token_seconds
        return (self.tokens - 1) / taken if self.tokens > 1 and taken > 0 else 0.0

    def take(self, parts: Sequence[tuple[str, Any]]) -> Iterator[Piece]:
        """Keep what parts of an answer hold, and give them as pieces to show."""
        for kind, what in parts:
            if kind == "call":
                self.calls.append(what)
                yield kind, f"{what.name} {what.arguments}"
            else:
                if kind == "reasoning":
                    self.reasoning += what
                else:
                    self.content += what
                yield kind, what

    def told(self) -> dict[str, Any]:
        """As a table for JSON."""
        return {**asdict(self), "tokens_per_second": round(self.rate, 2)}


class ChatBackend(Protocol):
    """What answers."""

    @property
    def temperature(self) -> float:
        """The values used where a request gives none."""

    def answer(self, messages: Sequence[Message], sampling: Sampling, made: Answer) -> Iterator[Piece]:
        """Yield the answer piece by piece, and record all of it, with counts and times, in `made`.

        Raises:
            InputError: the model cannot answer this conversation.
        """


@define
class ChatModel:
    """A model in memory.

    Attributes:
        prompter: its tokenizer and stop tokens.
        encode: token ids of a conversation, up to where the answer begins.
        adapter_context: entered during each forward pass: enables or disables the adapter.
    """

    model: Any
    prompter: Prompter
    encode: Callable[[Sequence[Message]], list[int]]
    adapter_context: Callable[[], AbstractContextManager[Any]] = nullcontext
    stops: frozenset[int] = field(init=False)
    form: Form | None = field(init=False)
    prefixes: Prefixes = field(init=False, factory=Prefixes)
    _shared: bool | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.stops = self.prompter.stops(self.model.generation_config)
        self.form = form_of(self.prompter)

    @property
    def temperature(self) -> float:
        """The generation config's."""
        return own_temperature(self.model.generation_config)

    def answer(self, messages: Sequence[Message], sampling: Sampling, made: Answer) -> Iterator[Piece]:
        """See `ChatBackend.answer`. A prefix shared with an earlier conversation is not computed again.

        Raises:
            InputError: the chat template refuses the messages, or they are longer than the model's context.
        """
        begun = time.perf_counter()
        ids = self.encode(messages)
        made.prompt_tokens = len(ids)
        context = context_of(self.model)
        if len(ids) >= context:
            what = f"the conversation has {len(ids)} tokens, more than the model's context of {context}"
            raise InputError(what, todo="start a new conversation")
        seed = secrets.randbelow(2**63) if sampling.seed is None else sampling.seed
        drawing = drawing_of(
            self.model.generation_config, sampling.max_tokens, seed, sampling.temperature, sampling.top_p
        )
        tokenizer = self.prompter.tokenizer
        pieces = Pieces(tokenizer, shown_tokens(tokenizer))
        parts = Parts(self.form, thinking=str(tokenizer.decode(ids[-16:])).rstrip().endswith(THINK))
        running = Running(self.model, self.stops, self.adapter_context, self._shared, self.prefixes)
        (one,) = running.join(ids, drawing)
        self._shared = running.shared
        try:
            while not one.finish:
                ((_, token),) = running.step()
                made.seconds = time.perf_counter() - begun
                text = ""
                if token.finish != "stop":
                    made.tokens += 1
                    made.first_token_seconds = made.first_token_seconds or made.seconds
                    text = pieces.add(token.id)
                made.finish = token.finish or made.finish
                made.text += text
                yield from made.take(parts.add(text))
        finally:
            running.leave([one])
        rest = pieces.rest()
        made.text += rest
        yield from made.take([*parts.add(rest), *parts.rest()])
