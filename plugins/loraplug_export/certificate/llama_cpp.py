"""llama.cpp, as the package xllamacpp carries it: its own server, in this process and on the loopback address."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

from loraplug_export.certificate.conversations import Message
from loraplug_export.certificate.engines import ChatAnswer, Engine, Listed
from loraplug_export.certificate.http import ask

_LIKELIEST = 200  # more than are compared, so that most of those are among them
_SURE = 1e3  # added to a token's logit, it comes


@define
class LlamaCppEngine(Engine):
    """A GGUF file, and adapters on it, in llama.cpp.

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
        params.cpuparams.poll = 0  # on a busy machine its threads would burn what others need
        params.warmup, params.verbosity, params.use_jinja = False, 0, True
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter)) for adapter in adapters]
        server = xllamacpp.Server(params)
        return cls(name, str(server.listening_address), server)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """As `Engine`: its template's text, and what its chat makes of that."""
        text = ask(f"{self.address}/apply-template", messages=[dict(one) for one in messages])["prompt"]
        found = ask(f"{self.address}/tokenize", content=text, add_special=True, parse_special=True)
        return [int(number) for number in found["tokens"]]

    def continued(self, ids: Sequence[int], answer: Sequence[int]) -> list[Listed]:
        """As `Engine`; one token at a time, of which it reads only the last anew."""
        # the token that is drawn is one of whole characters: with others the server keeps the probabilities back
        whole = ask(f"{self.address}/tokenize", content="a")["tokens"][-1]
        found: list[Listed] = []
        for count in range(len(answer)):
            told = self._complete([*ids, *answer[:count]], 1, n_probs=_LIKELIEST, logit_bias=[[whole, _SURE]])
            top = told["completion_probabilities"][0]["top_logprobs"]
            found.append({int(one["id"]): float(one["logprob"]) for one in top if one["logprob"] is not None})
        return found

    def ends_at(self, messages: Sequence[Message], ids: Sequence[int], token: int) -> bool:  # noqa: ARG002
        """As `Engine`: it is made to say the token, and a word after it."""
        told = self._complete(list(ids), 2, logit_bias=[[token, _SURE]])
        return str(told["stop_type"]) == "eos"

    def chat(self, messages: Sequence[Message], count: int) -> ChatAnswer:
        """As `Engine`."""
        told = ask(f"{self.address}/v1/chat/completions", messages=[dict(one) for one in messages], max_tokens=count,
                   temperature=0, reasoning_format="none")  # fmt: skip
        choice = told["choices"][0]
        text = choice["message"].get("content") or ""
        return ChatAnswer(text, told["usage"]["prompt_tokens"], choice["finish_reason"] == "stop")

    def _complete(self, ids: list[int], count: int, **more: Any) -> dict[str, Any]:
        return ask(f"{self.address}/completion", prompt=ids, n_predict=count, temperature=0, **more)

    def close(self) -> None:
        """As `Engine`."""
        self._server = None
