"""Answers of a model in memory, in the shapes of OpenAI's interface: whole, or piece by piece."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

from attrs import define, field

from loraplug_serve.forms import THINK, Call, Parts
from loraplug_serve.sampling import Token
from loraplug_serve.server.errors import ApiError
from loraplug_serve.server.request import GenerationRequest
from loraplug_serve.server.served import Sampled
from loraplug_serve.server.worker import Job, QueueFullError, failure
from loraplug_serve.text import Pieces, StopTexts


@define
class Piece:
    """What is new of one answer.

    Attributes:
        parts: as `Parts` gives them.
        logprobs: of the tokens that it is made of.
        finish: why the answer ends here; empty where it goes on.
    """

    index: int
    parts: list[tuple[str, Any]] = field(factory=list)
    logprobs: list[dict[str, Any]] = field(factory=list)
    finish: str = ""


@define
class Reply:
    """One answer on its way from tokens to text, calls and reasoning."""

    index: int
    pieces: Pieces
    stops: StopTexts
    parts: Parts
    top: int | None
    calls: int = 0
    tokens: int = 0

    def take(self, token: Token) -> Piece:
        """What a token adds."""
        piece = Piece(self.index)
        ends = token.finish == "stop"
        self.tokens += 1
        text = "" if ends else self.pieces.add(token.id)
        if self.top is not None and not ends:
            piece.logprobs = [self._told(token)]
        text = self.stops.add(text)
        if token.finish and not self.stops.found:
            text += self.stops.add(self.pieces.rest()) + self.stops.rest()
        piece.parts = self.parts.add(text)
        if self.stops.found or token.finish:
            piece.parts += self.parts.rest()
            piece.finish = "stop" if self.stops.found else token.finish
        self.calls += sum(kind == "call" for kind, _ in piece.parts)
        if piece.finish == "stop" and self.calls:
            piece.finish = "tool_calls"
        return piece

    def _told(self, token: Token) -> dict[str, Any]:
        told = self._one(token.id, token.logprob)
        return {**told, "top_logprobs": [self._one(*other) for other in token.top]}

    def _one(self, number: int, logprob: float) -> dict[str, Any]:
        text = str(self.pieces.tokenizer.decode([number], clean_up_tokenization_spaces=False))
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode("utf-8", "replace"))}


@define
class Conversation:
    """A request under way.

    Attributes:
        seconds: how long it may take.
        started: when it began, of `time.perf_counter`.
        first: seconds to the first token; 0 before it.
    """

    model: Sampled
    asked: GenerationRequest
    seconds: float
    id: str = field(factory=lambda: secrets.token_hex(12))
    created: int = field(factory=lambda: int(time.time()))
    started: float = field(factory=time.perf_counter)
    first: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    async def pieces(self) -> AsyncIterator[Piece]:
        """All answers' pieces as they come; when it is closed early, the work ends.

        Raises:
            ApiError: the request cannot be answered, takes too long, or the model failed.
        """
        found: asyncio.Queue[tuple[int, Token | BaseException]] = asyncio.Queue()
        jobs: list[Job] = []
        replies: dict[int, Reply] = {}
        try:
            for at, (ids, forced) in enumerate(await asyncio.to_thread(self._prompts)):
                jobs.append(job := self._job(ids, _into(found, at * self.asked.sampled.n)))
                self.prompt_tokens += len(ids)
                for sample in range(job.samples):
                    index = at * job.samples + sample
                    replies[index] = reply = self._reply(index, ids, forced)
                    if forced:
                        yield Piece(index, reply.parts.add(forced))
            for job in jobs:
                self._submit(job)
            while replies:
                index, what = await self._next(found)
                if isinstance(what, BaseException):
                    raise ApiError(500, f"the model failed: {failure(what)}", code="model_failed") from what
                if index not in replies:
                    continue
                self.first = self.first or time.perf_counter() - self.started
                self.completion_tokens += 1
                piece = replies[index].take(what)
                if piece.finish:
                    jobs[index // self.asked.sampled.n].gone.add(index % self.asked.sampled.n)
                    del replies[index]
                yield piece
        finally:
            for job in jobs:
                job.cancel()

    def _submit(self, job: Job) -> None:
        try:
            self.model.worker.submit(job)
        except QueueFullError:
            raise ApiError(429, "too many requests are waiting; try again later", code="queue_full") from None

    def usage(self) -> dict[str, int]:
        """Tokens read and said."""
        total = self.prompt_tokens + self.completion_tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens, "total_tokens": total}

    async def _next(self, found: asyncio.Queue[Any]) -> tuple[int, Token | BaseException]:
        left = self.seconds - (time.perf_counter() - self.started)
        try:
            one: tuple[int, Token | BaseException] = await asyncio.wait_for(found.get(), max(left, 0.001))
        except TimeoutError:
            what = f"the answer exceeded this server's time limit of {self.seconds:g} seconds"
            raise ApiError(504, what, code="timeout") from None
        return one

    def _prompts(self) -> list[tuple[list[int], str]]:
        if self.asked.messages:
            return [self.model.prompt(self.asked)]
        found: list[tuple[list[int], str]] = []
        for prompt in self.asked.prompts:
            ids = list(self.model.tokenizer(prompt)["input_ids"]) if isinstance(prompt, str) else list(prompt)
            most = self.model.model.get_input_embeddings().weight.shape[0]
            if not ids or max(ids) >= most:
                raise ApiError(400, f"prompt: has a token id above {most - 1}, or no tokens", "prompt", "invalid_value")
            found.append((ids, ""))
        return found

    def _job(self, ids: list[int], deliver: Any) -> Job:
        drawing = self.model.drawing(self.asked, ids)
        return Job(self.model.lane, ids, drawing, self.asked.sampled.n, self.asked.top or 0, deliver)

    def _reply(self, index: int, ids: list[int], forced: str) -> Reply:
        asked, model = self.asked, self.model
        looks = bool(asked.tools) and asked.call != "none"
        names = [tool["function"]["name"] for tool in asked.tools]
        chat = bool(asked.messages)
        end = str(model.tokenizer.decode(list(ids[-16:]))) if chat else ""
        thinking = not forced and end.rstrip().endswith(THINK)
        parts = Parts(model.form if looks else None, names, thinking) if chat else Plain()
        return Reply(index, Pieces(model.tokenizer, model.shown), StopTexts(asked.sampled.stop), parts, asked.top)


def _into(found: asyncio.Queue[Any], first: int) -> Callable[[int, Token | BaseException], None]:
    """Puts what a worker's thread delivers into a queue of this event loop, numbered from `first`."""
    loop = asyncio.get_running_loop()

    def deliver(index: int, what: Token | BaseException) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server is at its end
            loop.call_soon_threadsafe(found.put_nowait, (first + index, what))

    return deliver


class Plain(Parts):
    """Text that is gone on with: nothing in it is taken apart."""

    def __init__(self) -> None:
        super().__init__(None)

    def add(self, text: str) -> list[tuple[str, Any]]:
        """The text."""
        return [("content", text)] if text else []

    def rest(self) -> list[tuple[str, Any]]:
        """Nothing."""
        return []


def call_of(call: Call) -> dict[str, Any]:
    """A call, with an id by which its result is told."""
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


async def chat_whole(talk: Conversation) -> dict[str, Any]:
    """All of a chat's answers."""
    choices = [_Choice(at) for at in range(talk.asked.sampled.n)]
    async for piece in talk.pieces():
        choices[piece.index].take(piece)
    told = [one.chat(talk.asked.top is not None) for one in choices]
    return {**_head(talk, "chat.completion", "chatcmpl"), "choices": told, "usage": talk.usage()}


async def chat_stream(talk: Conversation) -> AsyncIterator[bytes]:
    """A chat's answers as server-sent events."""
    head = _head(talk, "chat.completion.chunk", "chatcmpl")
    begun: set[int] = set()
    calls: dict[int, int] = {}
    async for piece in talk.pieces():
        deltas: list[dict[str, Any]] = []
        if piece.index not in begun:
            begun.add(piece.index)
            deltas.append({"role": "assistant", "content": ""})
        for kind, what in piece.parts:
            if kind == "call":
                number = calls[piece.index] = calls.get(piece.index, -1) + 1
                deltas.append({"tool_calls": [{"index": number, **call_of(what)}]})
            else:
                deltas.append({"content" if kind == "content" else "reasoning_content": what})
        if piece.logprobs and not deltas:
            deltas.append({"content": ""})
        for at, delta in enumerate(deltas):
            logprobs = {"content": piece.logprobs} if piece.logprobs and at == len(deltas) - 1 else None
            choice = {"index": piece.index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
            yield event({**head, "choices": [choice]})
        if piece.finish:
            choice = {"index": piece.index, "delta": {}, "logprobs": None, "finish_reason": piece.finish}
            yield event({**head, "choices": [choice]})
    if talk.asked.usage:
        yield event({**head, "choices": [], "usage": talk.usage()})


async def text_whole(talk: Conversation) -> dict[str, Any]:
    """All texts that go on from the prompts."""
    choices = [_Choice(at) for at in range(talk.asked.sampled.n * len(talk.asked.prompts))]
    async for piece in talk.pieces():
        choices[piece.index].take(piece)
    told = [
        {"index": one.index, "text": one.content, "finish_reason": one.finish,
         "logprobs": None if talk.asked.top is None else _text_logprobs(one.logprobs)}
        for one in choices
    ]  # fmt: skip
    return {**_head(talk, "text_completion", "cmpl"), "choices": told, "usage": talk.usage()}


async def text_stream(talk: Conversation) -> AsyncIterator[bytes]:
    """The same as server-sent events."""
    head = _head(talk, "text_completion", "cmpl")
    async for piece in talk.pieces():
        text = "".join(what for _, what in piece.parts)
        if text or piece.finish or piece.logprobs:
            logprobs = _text_logprobs(piece.logprobs) if piece.logprobs else None
            choice = {"index": piece.index, "text": text, "logprobs": logprobs, "finish_reason": piece.finish or None}
            yield event({**head, "choices": [choice]})
    if talk.asked.usage:
        yield event({**head, "choices": [], "usage": talk.usage()})


def event(what: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(what, ensure_ascii=False)}\n\n".encode("utf-8", "replace")


@define
class _Choice:
    index: int
    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(factory=list)
    logprobs: list[dict[str, Any]] = field(factory=list)
    finish: str = ""

    def take(self, piece: Piece) -> None:
        for kind, what in piece.parts:
            if kind == "call":
                self.calls.append(what)
            elif kind == "reasoning":
                self.reasoning += what
            else:
                self.content += what
        self.logprobs += piece.logprobs
        self.finish = piece.finish or self.finish

    def chat(self, told: bool) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message |= {"content": self.content.strip() or None, "tool_calls": [call_of(call) for call in self.calls]}
        logprobs = {"content": self.logprobs} if told else None
        return {"index": self.index, "message": message, "logprobs": logprobs, "finish_reason": self.finish}


def _head(talk: Conversation, kind: str, prefix: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{talk.id}", "object": kind, "created": talk.created, "model": talk.model.name}


def _text_logprobs(told: list[dict[str, Any]]) -> dict[str, Any]:
    offsets, at = [], 0
    for one in told:
        offsets.append(at)
        at += len(one["token"])
    return {
        "tokens": [one["token"] for one in told],
        "token_logprobs": [one["logprob"] for one in told],
        "top_logprobs": [{other["token"]: other["logprob"] for other in one["top_logprobs"]} for one in told],
        "text_offset": offsets,
    }
