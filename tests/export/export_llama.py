"""A GGUF file in real llama.cpp: its own server, in this process."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any


class LlamaCpp:
    """Asks llama.cpp what it makes of a file."""

    def __init__(self, path: Path, *adapters: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 512, 1, 1
        params.cpuparams.poll = 0  # on a busy machine its threads would burn what others need
        params.warmup, params.verbosity = False, 0
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter)) for adapter in adapters]
        self._server = xllamacpp.Server(params)

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, with what the file says is put before and after."""
        found: list[int] = self._ask("tokenize", content=text, add_special=True, parse_special=True)["tokens"]
        return found

    def rendered(self, messages: list[dict[str, str]]) -> str:
        """The chat template's text, with the prompt for an answer."""
        return str(self._ask("apply-template", messages=messages)["prompt"])

    def answer(self, ids: list[int], count: int, scales: tuple[float, ...] = ()) -> list[int]:
        """Greedy token ids; with the adapters at these scales, which are 1 where none are given."""
        lora = [{"id": number, "scale": scale} for number, scale in enumerate(scales)]
        more = {"lora": lora} if lora else {}
        asked = self._ask(
            "completion", prompt=ids, n_predict=count, temperature=0, return_tokens=True, cache_prompt=False, **more
        )
        return list(asked["tokens"])

    def logprobs(self, ids: list[int], count: int) -> dict[int, float]:
        """Log-probabilities (nats) of the likeliest tokens behind these ids, by token id."""
        # what is drawn is made to be a whole character: with others the server keeps the probabilities back
        told = self._ask(
            "completion", prompt=ids, n_predict=1, temperature=0, n_probs=count, cache_prompt=False,
            logit_bias=[[self.tokens("a")[-1], 1e3]],
        )  # fmt: skip
        top = told["completion_probabilities"][0]["top_logprobs"]
        return {int(one["id"]): float(one["logprob"]) for one in top if one["logprob"] is not None}

    def _ask(self, what: str, **body: Any) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self._server.listening_address}/{what}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
        return found
