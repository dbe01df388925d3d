"""A model at a URL that answers through OpenAI's interface."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import define, field

from loraplug import InputError, LoraplugError
from loraplug_serve.chat_model import Answer, Message, Piece, Sampling
from loraplug_serve.forms import Call

KEY = "LORAPLUG_API_KEY"


__all__ = ["KEY", "RefusedError", "RemoteModel", "Sampling", "address_of", "headers", "is_url", "models_at"]


class RefusedError(InputError):
    """A server refused a request; `too_long` if the conversation leaves no room for an answer."""

    too_long: bool = False


def is_url(model: str) -> bool:
    """Whether a model is at a URL."""
    return model.startswith(("http://", "https://"))


def models_at(address: str, key: str | None) -> list[str]:
    """Names of the models that a server has.

    Raises:
        InputError: it does not answer, or not as OpenAI's does.
    """
    import httpx2

    todo = f"check that a server with OpenAI's interface runs there; {KEY} takes its key"
    try:
        found = httpx2.get(f"{address}/v1/models", headers=headers(key), timeout=10, trust_env=False)
        found.raise_for_status()
        names = [str(model["id"]) for model in found.json()["data"]]
    except httpx2.HTTPStatusError as error:
        raise InputError(f"responds with HTTP status {error.response.status_code}", where=address, todo=todo) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise InputError(f"cannot be reached ({type(error).__name__})", where=address, todo=todo) from None
    except (ValueError, KeyError, TypeError):
        raise InputError("does not respond like a server with OpenAI's interface", where=address, todo=todo) from None
    if not names:
        raise InputError("lists no model", where=address, todo=todo)
    return names


def headers(key: str | None) -> dict[str, str]:
    """Those that bring a key."""
    return {} if key is None else {"authorization": f"Bearer {key}"}


def address_of(url: str) -> str:
    """A server's address, up to and without /v1."""
    return url.partition("#")[0].rstrip("/").removesuffix("/v1")


@define
class RemoteModel:
    """A model of a server.

    Attributes:
        address: of the server, up to and without /v1.
        name: of the model there.
        key: the server's API key.
    """

    address: str
    name: str
    key: str | None = field(default=None, repr=False)
    temperature: float = 1.0

    @classmethod
    def at(cls, url: str) -> RemoteModel:
        """The model of a URL, which ends in #NAME where the server has several; the key comes from the environment.

        Raises:
            InputError: the server does not answer, has no such model, or several and none is named.
        """
        address, key = address_of(url), os.environ.get(KEY) or None
        names, wanted = models_at(address, key), url.partition("#")[2]
        if wanted not in names and (wanted or len(names) > 1):
            what = f"has no model {wanted!r}" if wanted else "has several models"
            todo = f"name one of them: {address}#{names[0]}" + (f" (or {', '.join(names[1:])})" if names[1:] else "")
            raise InputError(what, where=address, todo=todo)
        return cls(address, wanted or names[0], key)

    def answer(self, messages: Sequence[Message], sampling: Sampling, made: Answer) -> Iterator[Piece]:
        """See `ChatBackend.answer`; options that are None are left to the server.

        Raises:
            InputError: the server refuses the messages.
            LoraplugError: the connection breaks.
        """
        import httpx2

        asked = {
            "model": self.name, "messages": list(messages), "max_tokens": sampling.max_tokens, "stream": True,
            "stream_options": {"include_usage": True}, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "seed": sampling.seed,
        }  # fmt: skip
        body = {name: value for name, value in asked.items() if value is not None}
        begun = time.perf_counter()
        calls: dict[int, list[str]] = {}
        try:
            with httpx2.stream(
                "POST", f"{self.address}/v1/chat/completions", json=body, headers=headers(self.key), timeout=600,
                trust_env=False,
            ) as found:  # fmt: skip
                if found.status_code != 200:
                    raise _refusal(found.read(), found.status_code, self.address)
                for line in found.iter_lines():
                    if line.startswith("data: {"):
                        yield from made.take(self._parts(json.loads(line[6:]), made, calls, begun))
        except (httpx2.HTTPError, ValueError) as error:
            what = f"the connection to the server broke ({type(error).__name__})"
            raise LoraplugError(
                what, where=self.address, todo="check that the server still runs, and ask again"
            ) from error
        yield from made.take([("call", Call(name, arguments)) for name, arguments in calls.values()])

    def whole(self, messages: Sequence[Message], sampling: Sampling) -> Answer:
        """The answer at its end.

        Raises:
            InputError, LoraplugError: as `answer`; or it ended before it was whole.
        """
        made = Answer()
        for _ in self.answer(messages, sampling, made):
            pass
        if made.finish == "interrupted":
            raise LoraplugError("the server stopped in the middle of an answer", where=self.address, todo="ask again")
        return made

    def _parts(
        self, chunk: dict[str, Any], made: Answer, calls: dict[int, list[str]], begun: float
    ) -> list[tuple[str, str]]:
        """What one event brings; calls are put together over events."""
        if "error" in chunk:
            raise LoraplugError(_why(json.dumps(chunk).encode(), 500), where=self.address, todo="ask again")
        if usage := chunk.get("usage"):
            made.prompt_tokens, made.tokens = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        found = []
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            for kind, name in (("reasoning", "reasoning_content"), ("reasoning", "reasoning"), ("content", "content")):
                if text := delta.get(name):
                    found.append((kind, str(text)))
                    made.text += str(text) if kind == "content" else ""
            for call in delta.get("tool_calls") or ():
                whole = calls.setdefault(int(call.get("index", 0)), ["", ""])
                function = call.get("function") or {}
                whole[0] += function.get("name") or ""
                whole[1] += function.get("arguments") or ""
            if found or delta.get("tool_calls"):
                made.seconds = time.perf_counter() - begun
                made.first_token_seconds = made.first_token_seconds or made.seconds
            if finish := choice.get("finish_reason"):
                made.finish = "stop" if finish == "tool_calls" else str(finish)
        return found


def _refusal(body: bytes, status: int, address: str) -> RefusedError:
    why = _why(body, status)
    refusal = RefusedError(why, where=address)
    refusal.too_long = status == 400 and re.search(r"context|too long|reads at most|exceed", why) is not None
    return refusal


def _why(body: bytes, status: int) -> str:
    """What a server says of an error."""
    try:
        return f"the server says: {json.loads(body)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"the server responds with HTTP status {status}"
