"""A server at a URL that speaks the OpenAI API: vLLM, Ollama, llama.cpp, or one behind a gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field

from loraplug import InputError
from loraplug_export.certificate.conversations import Message
from loraplug_export.certificate.engines import ChatAnswer, Engine, Listed
from loraplug_export.certificate.http import ask

_LIKELIEST = 20  # the most that the API gives


@define
class OpenAIEngine(Engine):
    """Asked through its chat alone, as its users do: prompts are compared by their length, probabilities by text.

    Args:
        address: with `/v1`, or without.
        model: as the server calls it.
        tokenizer: the trained one; tells which token a text is.
    """

    name: str
    address: str
    model: str
    tokenizer: Any
    key: str | None = field(default=None, repr=False)

    def prompt(self, messages: Sequence[Message]) -> None:  # noqa: ARG002
        """As `Engine`: it does not say."""
        return

    def continued(self, ids: Sequence[int], answer: Sequence[int]) -> None:  # noqa: ARG002
        """As `Engine`: it continues its own answers alone, see `chat`."""
        return

    def ends_at(self, messages: Sequence[Message], ids: Sequence[int], token: int) -> bool | None:  # noqa: ARG002
        """As `Engine`: it is made to say the token, and a word after it."""
        from loraplug import LoraplugError

        try:
            told = self._ask(messages, 3, logit_bias={str(token): 100})
        except LoraplugError:  # some take no logit_bias
            return None
        return str(told["choices"][0]["finish_reason"]) == "stop"

    def chat(self, messages: Sequence[Message], count: int) -> ChatAnswer:
        """As `Engine`."""
        told = self._ask(messages, count, logprobs=True, top_logprobs=_LIKELIEST)
        choice = told["choices"][0]
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        listed = [self._listed(one) for one in tokens]
        usage = told.get("usage") or {}
        if usage.get("completion_tokens") not in (len(listed), len(listed) + (choice["finish_reason"] == "stop")):
            listed = []  # some servers leave out tokens that are parts of characters: which is which cannot be told
        text = choice["message"].get("content") or ""
        return ChatAnswer(text, usage.get("prompt_tokens"), choice["finish_reason"] == "stop", listed)

    def _listed(self, told: dict[str, Any]) -> Listed:
        """By token id, those whose text is one token of the tokenizer."""
        found: dict[int, float] = {}
        for one in told.get("top_logprobs") or ():
            number = one.get("id")
            if number is None:
                ids = self.tokenizer(one["token"], add_special_tokens=False)["input_ids"]
                number = ids[0] if len(ids) == 1 else None
            if number is not None:
                found[int(number)] = float(one["logprob"])
        return found

    def _ask(self, messages: Sequence[Message], count: int, **more: Any) -> dict[str, Any]:
        url = f"{self.address.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
        told = ask(url, self.key, model=self.model, messages=[dict(one) for one in messages], max_tokens=count,
                   temperature=0, **more)  # fmt: skip
        if not told.get("choices"):
            raise InputError("answers without choices: not an OpenAI API", where=url, todo="give the server's address")
        return told
