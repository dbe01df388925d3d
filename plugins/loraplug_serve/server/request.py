"""The body of a request, read strictly: what is not heeded is refused, not ignored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, frozen

from loraplug_serve.server.errors import ApiError, wrong

_NO_EFFECT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls",
}  # fmt: skip
"""Fields that say nothing about the answer itself; calls may always be several."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "best_of": (1,), "echo": (False,),
    "suffix": ("",), "response_format": ({"type": "text"},), "modalities": (["text"],), "functions": ([],),
}  # fmt: skip
"""Fields that are not heeded, and the values with which they ask for nothing."""
MOST_ANSWERS = 64


@frozen
class Sampled:
    """How a client wants its answers drawn; None is as the model's generation config has it."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    max_tokens: int | None
    seed: int | None
    n: int
    stop: tuple[str, ...]


@frozen
class GenerationRequest:
    """A request.

    Attributes:
        model: the name of one that is served.
        messages: of a chat, as chat templates take them; empty where text is gone on with.
        prompts: texts or token ids to go on with; empty for a chat.
        tools: functions that may be called.
        call: "none", "auto", "required", or the name of the function that must be called, behind a colon.
        top: likeliest tokens to tell of in each place; None tells no log-probabilities.
    """

    model: str
    sampled: Sampled
    stream: bool
    usage: bool
    top: int | None
    messages: tuple[dict[str, Any], ...] = ()
    prompts: tuple[str | tuple[int, ...], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    call: str = "auto"


@define
class _Body:
    """Takes fields out of a body one by one, so that what is left over is known."""

    left: dict[str, Any]

    def take(self, name: str) -> Any:
        return self.left.pop(name, None)

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise wrong(name, f"must be a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, name: str, low: int, high: int) -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(name, f"must be an integer from {low} to {high}")
        return value

    def switch(self, name: str) -> bool:
        value = self.take(name)
        if not (value is None or isinstance(value, bool)):
            raise wrong(name, "must be true or false")
        return bool(value)


def parse(body: bytes) -> dict[str, Any]:
    """The object in a body.

    Raises:
        ApiError: there is none.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {str(error)[:200]}", code="invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return found


def chat(found: Mapping[str, Any]) -> GenerationRequest:
    """A request for `/v1/chat/completions`.

    Raises:
        ApiError: naming the field that cannot be taken.
    """
    body = _Body(dict(found))
    messages = _messages(body.take("messages"))
    tools = _tools(body.take("tools"))
    call = _choice(body.take("tool_choice"), tools)
    top = _chat_logprobs(body)
    longest = body.whole("max_completion_tokens", 1, 1 << 30)
    return _asked(body, top=top, longest=longest, messages=messages, tools=tools, call=call)


def completion(found: Mapping[str, Any]) -> GenerationRequest:
    """A request for `/v1/completions`.

    Raises:
        ApiError: naming the field that cannot be taken.
    """
    body = _Body(dict(found))
    prompts = _prompts(body.take("prompt"))
    return _asked(body, top=body.whole("logprobs", 0, 20), longest=None, prompts=prompts)


def _asked(body: _Body, top: int | None, longest: int | None, **more: Any) -> GenerationRequest:
    model = body.take("model")
    if not isinstance(model, str) or not model:
        raise wrong("model", "must name a model; /v1/models lists them")
    stream = body.switch("stream")
    options = body.take("stream_options") or {}
    if not isinstance(options, dict) or set(options) - {"include_usage", "include_obfuscation"}:
        raise wrong("stream_options", "knows include_usage")
    shorter = body.whole("max_tokens", 1, 1 << 30)
    sampled = Sampled(
        temperature=body.number("temperature", 0, 10),
        top_p=body.number("top_p", 0, 1),
        top_k=body.whole("top_k", 0, 1 << 30),
        min_p=body.number("min_p", 0, 1),
        repetition_penalty=body.number("repetition_penalty", 0.01, 100),
        max_tokens=shorter if longest is None else longest,
        seed=body.whole("seed", -(2**63), 2**63 - 1),
        n=body.whole("n", 1, MOST_ANSWERS) or 1,
        stop=_stop(body.take("stop")),
    )
    if sampled.top_p == 0:
        raise wrong("top_p", "must be above 0")
    _nothing_left(body.left)
    return GenerationRequest(model, sampled, stream, bool(options.get("include_usage")), top, **more)


def _nothing_left(left: Mapping[str, Any]) -> None:
    for name, value in left.items():
        if name in _NO_EFFECT or value is None or value in _NEUTRAL.get(name, ()):
            continue
        raise ApiError(400, f"{name}: not supported by this engine; leave it out", name, "unsupported_parameter")


def _stop(value: Any) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(found, list) or len(found) > 16 or not all(isinstance(one, str) and one for one in found):
        raise wrong("stop", "must be a non-empty string, or up to 16 of them")
    return tuple(found)


def _chat_logprobs(body: _Body) -> int | None:
    wanted, top = body.switch("logprobs"), body.whole("top_logprobs", 0, 20)
    if top and not wanted:
        raise wrong("top_logprobs", "needs logprobs = true")
    return (top or 0) if wanted else None


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    def ids(one: Any) -> bool:
        return isinstance(one, list) and bool(one) and all(type(token) is int and 0 <= token < 1 << 31 for token in one)

    found = [value] if isinstance(value, str) or ids(value) else value
    if not isinstance(found, list) or not 0 < len(found) <= MOST_ANSWERS:
        raise wrong("prompt", f"must be a string, token ids, or a list of up to {MOST_ANSWERS} of either")
    if not all((isinstance(one, str) and one) or ids(one) for one in found):
        raise wrong("prompt", "an entry is neither a non-empty string nor token ids")
    return tuple(one if isinstance(one, str) else tuple(one) for one in found)


def _messages(value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise wrong("messages", "must be a non-empty list of messages")
    return tuple(_message(one, f"messages[{at}]") for at, one in enumerate(value))


def _message(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(where, "must be an object")
    role = {"developer": "system"}.get(value.get("role", ""), value.get("role"))
    if role not in ("system", "user", "assistant", "tool"):
        raise wrong(f"{where}.role", "must be system, developer, user, assistant or tool")
    made: dict[str, Any] = {"role": role, "content": _content(value.get("content"), where, role == "assistant")}
    for name in ("name", "tool_call_id", "reasoning_content"):
        if value.get(name) is not None:
            if not isinstance(value[name], str):
                raise wrong(f"{where}.{name}", "must be a string")
            made[name] = value[name]
    if calls := value.get("tool_calls"):
        if role != "assistant" or not isinstance(calls, list):
            raise wrong(f"{where}.tool_calls", "must be a list in an assistant's message")
        made["tool_calls"] = [_call(call, f"{where}.tool_calls[{at}]") for at, call in enumerate(calls)]
    return made


def _content(value: Any, where: str, may_lack: bool) -> str:
    if isinstance(value, str):
        return value
    if value is None and may_lack:
        return ""
    if not isinstance(value, list):
        raise wrong(f"{where}.content", "must be a string, or a list of parts of type text")
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in value]
    if not all(isinstance(text, str) for text in texts):
        raise wrong(f"{where}.content", "has a part that is not text; these models read text only")
    return "".join(map(str, texts))


def _call(value: Any, where: str) -> dict[str, Any]:
    called = value.get("function") if isinstance(value, dict) else None
    if not isinstance(called, dict) or not isinstance(called.get("name"), str):
        raise wrong(where, "must have a function with a name")
    given = called.get("arguments", "{}")
    try:  # chat templates write objects; a text would come out quoted twice
        given = json.loads(given or "{}") if isinstance(given, str) else given
    except (ValueError, RecursionError):
        raise wrong(f"{where}.function.arguments", "is not JSON") from None
    return {"id": str(value.get("id", "")), "type": "function", "function": {**called, "arguments": given}}


def _tools(value: Any) -> tuple[dict[str, Any], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise wrong("tools", "must be a list")
    for at, tool in enumerate(value):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise wrong(f"tools[{at}]", "must be of type function and have a function with a name")
    return tuple(value)


def _choice(value: Any, tools: Sequence[Mapping[str, Any]]) -> str:
    if value is None:
        return "auto"
    if isinstance(value, dict):
        called = value.get("function")
        name = called.get("name") if isinstance(called, dict) else None
        if name not in [tool["function"]["name"] for tool in tools]:
            raise wrong("tool_choice", "names a function that is not in tools")
        return f":{name}"
    if value not in ("none", "auto", "required") or (value == "required" and not tools):
        raise wrong("tool_choice", 'must be "none", "auto", "required" (with tools), or name a function')
    return str(value)
