"""A loaded model that answers messages, in pieces of text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from attrs import define, field

from loraplug import Prompter
from loraplug_serve.generate import PrefixCache, Sampling, generate

Message = Mapping[str, str]


@define
class Answer:
    """An answer on its way; `finish` is "stop", "length" or, while it is not at its end, "interrupted"."""

    text: str = ""
    finish: str = "interrupted"
    prompt_tokens: int = 0
    tokens: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0


@define
class ChatModel:
    """A model that answers.

    Attributes:
        prompter: its tokenizer, and what ends its answers.
        encode: ids of a conversation that is open for an answer.
        around: entered for each forward pass.
    """

    model: Any
    prompter: Prompter
    encode: Callable[[Sequence[Message]], list[int]]
    adapter_context: Callable[[], AbstractContextManager[Any]] = nullcontext
    stops: frozenset[int] = field(init=False)
    _memory: PrefixCache = field(init=False, factory=PrefixCache)

    def __attrs_post_init__(self) -> None:
        self.stops = self.prompter.stops(self.model.generation_config)

    def answer(self, messages: Sequence[Message], sampling: Sampling, made: Answer) -> Iterator[str]:
        """Yield the answer's text as it comes, and keep the whole of it with its figures in `made`.

        Raises:
            InputError: the chat template refuses the messages, or they are longer than the model's context.
        """
        begun = time.perf_counter()
        ids = self.encode(messages)
        made.prompt_tokens = len(ids)
        pieces = _Pieces(self.prompter.tokenizer)
        for token in generate(self.model, ids, self.stops, sampling, self._memory, self.adapter_context):
            made.seconds = time.perf_counter() - begun
            if token in self.stops:
                made.finish = "stop"
                break
            made.tokens += 1
            made.first_token_seconds = made.first_token_seconds or made.seconds
            if piece := pieces.add(token):
                made.text += piece
                yield piece
        else:
            made.finish = "length"
        if rest := pieces.rest():
            made.text += rest
            yield rest


class _Pieces:
    """Token ids to text, holding back what is not a whole character yet.

    A token is decoded behind the few that were said before it, since decoders treat the first of a text apart.
    """

    PATIENCE = 8
    """Tokens held back at most: a character has four bytes, so what waits longer never becomes one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._said: list[int] = []
        self._held: list[int] = []

    def add(self, token: int) -> str:
        """The text that can be said now."""
        self._held.append(token)
        piece = self._piece()
        if not piece or (piece.endswith("\ufffd") and len(self._held) < self.PATIENCE):
            return ""
        self._said, self._held = self._held, []
        return piece

    def rest(self) -> str:
        """What is still held back when no token follows."""
        return self._piece()

    def _piece(self) -> str:
        return self._decoded(self._said + self._held)[len(self._decoded(self._said)) :]

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
