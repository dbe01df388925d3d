"""llama.cpp from the package xllamacpp: its server, in this process and on the loopback address."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

from loraplug_export.certificate.conversations import Message
from loraplug_export.certificate.engines import ChatAnswer, Engine, Listed
from loraplug_export.certificate.http import ask

_LIKELIEST = 200  # more than are compared, so that most of the reference's top tokens are included
_SURE = 1e3  # added to a token's logit to force it


@define
class LlamaCppEngine(Engine):
    """A GGUF file, with adapters if given, in llama.cpp.

    Args:
        context: the most tokens of prompt and answer.
    """

    name: str
    address: str
    _server: Any = field(default=None, repr=False)

    @classmethod
    def start(cls, name: str, file: Path, context: int, adapters: Sequence[Path] = ()) -> LlamaCppEngine:
        """Load the file.

        Raises:
            ImportError: xllamacpp is not installed.
            RuntimeError: llama.cpp cannot load the file.
        """
        import os

        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.cpuparams.n_threads = context, 1, os.cpu_count() or 1
        params.cpuparams.poll = 0  # on a busy machine its threads would spin
        params.warmup, params.verbosity, params.use_jinja = False, 0, True
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter)) for adapter in adapters]
        server = xllamacpp.Server(params)
        return cls(name, str(server.listening_address), server)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """See `Engine`: the text that its chat template gives, tokenized as its chat does."""
        text = ask(f"{self.address}/apply-template", messages=[dict(one) for one in messages])["prompt"]
        found = ask(f"{self.address}/tokenize", content=text, add_special=True, parse_special=True)
        return [int(number) for number in found["tokens"]]

    def continued(self, ids: Sequence[int], answer: Sequence[int]) -> list[Listed]:
        """See `Engine`; one request per token, of which the server computes only the last."""
        # force a token of whole characters: for others the server returns no probabilities
        whole = ask(f"{self.address}/tokenize", content="a")["tokens"][-1]
        found: list[Listed] = []
        for count in range(len(answer)):
            told = self._complete([*ids, *answer[:count]], 1, n_probs=_LIKELIEST, logit_bias=[[whole, _SURE]])
            top = told["completion_probabilities"][0]["top_logprobs"]
            found.append({int(one["id"]): float(one["logprob"]) for one in top if one["logprob"] is not None})
        return found

    def ends_at(self, messages: Sequence[Message], ids: Sequence[int], token: int) -> bool:  # noqa: ARG002
        """See `Engine`: the token is forced with a logit bias, then one more word."""
        told = self._complete(list(ids), 2, logit_bias=[[token, _SURE]])
        return str(told["stop_type"]) == "eos"

    def chat(self, messages: Sequence[Message], count: int) -> ChatAnswer:
        """See `Engine`."""
        told = ask(f"{self.address}/v1/chat/completions", messages=[dict(one) for one in messages], max_tokens=count,
                   temperature=0, reasoning_format="none")  # fmt: skip
        choice = told["choices"][0]
        text = choice["message"].get("content") or ""
        return ChatAnswer(text, told["usage"]["prompt_tokens"], choice["finish_reason"] == "stop")

    def _complete(self, ids: list[int], count: int, **more: Any) -> dict[str, Any]:
        return ask(f"{self.address}/completion", prompt=ids, n_predict=count, temperature=0, **more)

    def close(self) -> None:
        """See `Engine`."""
        self._server = None
