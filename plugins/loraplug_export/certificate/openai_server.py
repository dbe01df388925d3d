"""A server with the OpenAI API: vLLM, Ollama, llama.cpp, or one behind a gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field

from loraplug import InputError
from loraplug_export.certificate.conversations import Message
from loraplug_export.certificate.engines import ChatAnswer, Engine, Listed
from loraplug_export.certificate.http import ask

_LIKELIEST = 20  # the maximum of the API


@define
class OpenAIEngine(Engine):
    """Asked through chat completions only: prompts are compared by length, probabilities by the tokens' text.

    Args:
        address: with `/v1`, or without.
        model: the model's name on the server.
        tokenizer: the trained one, to find the token of a text.
    """

    name: str
    address: str
    model: str
    tokenizer: Any
    key: str | None = field(default=None, repr=False)

    def prompt(self, messages: Sequence[Message]) -> None:  # noqa: ARG002
        """See `Engine`: not available."""
        return

    def continued(self, ids: Sequence[int], answer: Sequence[int]) -> None:  # noqa: ARG002
        """See `Engine`: only for its own answers, see `chat`."""
        return

    def ends_at(self, messages: Sequence[Message], ids: Sequence[int], token: int) -> bool | None:  # noqa: ARG002
        """See `Engine`: the token is forced with a logit bias, then one more word."""
        from loraplug import LoraplugError

        try:
            told = self._ask(messages, 3, logit_bias={str(token): 100})
        except LoraplugError:  # some servers support no logit_bias
            return None
        return str(told["choices"][0]["finish_reason"]) == "stop"

    def chat(self, messages: Sequence[Message], count: int) -> ChatAnswer:
        """See `Engine`."""
        told = self._ask(messages, count, logprobs=True, top_logprobs=_LIKELIEST)
        choice = told["choices"][0]
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        listed = [self._listed(one) for one in tokens]
        usage = told.get("usage") or {}
        if usage.get("completion_tokens") not in (len(listed), len(listed) + (choice["finish_reason"] == "stop")):
            listed = []  # some servers leave out tokens that are parts of characters: positions are then ambiguous
        text = choice["message"].get("content") or ""
        return ChatAnswer(text, usage.get("prompt_tokens"), choice["finish_reason"] == "stop", listed)

    def _listed(self, told: dict[str, Any]) -> Listed:
        """The listed log-probabilities by token id, where the text is exactly one token."""
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
            raise InputError(
                "returned no choices: this is not an OpenAI API", where=url, todo="check the server's address"
            )
        return told
