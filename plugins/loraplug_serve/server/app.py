"""The server's paths."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
from attrs import define, field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from loraplug import LoraplugError
from loraplug_serve.guard import Names
from loraplug_serve.server import answers, request
from loraplug_serve.server.answers import Conversation
from loraplug_serve.server.errors import ApiError
from loraplug_serve.server.forward import forward
from loraplug_serve.server.front import Front
from loraplug_serve.server.metrics import Metrics
from loraplug_serve.server.request import GenerationRequest
from loraplug_serve.server.served import Forwarded, Sampled, Served


@define
class Limits:
    """Of one request: bytes of its body, and seconds for its answer."""

    body: int = 8 << 20
    seconds: float = 600.0


@define
class _Paths:
    served: Served
    limits: Limits
    metrics: Metrics
    client: Any = field(default=None)

    async def chat(self, asked: Request) -> Response:
        """`/v1/chat/completions`."""
        return await self._answer(asked, request.chat, answers.chat_whole, answers.chat_stream)

    async def text(self, asked: Request) -> Response:
        """`/v1/completions`."""
        return await self._answer(asked, request.completion, answers.text_whole, answers.text_stream)

    async def models(self, asked: Request) -> Response:  # noqa: ARG002
        """`/v1/models`."""
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "loraplug"} for name in self.served.models]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, asked: Request) -> Response:
        """`/v1/models/NAME`."""
        found = self.served.get(asked.path_params["name"])
        return JSONResponse({"id": found.name, "object": "model", "created": 0, "owned_by": "loraplug"})

    async def health(self, asked: Request) -> Response:  # noqa: ARG002
        """`/health`."""
        return JSONResponse({"status": "ok"})

    async def figures(self, asked: Request) -> Response:  # noqa: ARG002
        """`/metrics`."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _answer(
        self, asked: Request, read: Callable[[Any], GenerationRequest],
        whole: Callable[[Conversation], Awaitable[dict[str, Any]]],
        stream: Callable[[Conversation], AsyncIterator[bytes]],
    ) -> Response:  # fmt: skip
        name, status = "", 500
        try:
            body = request.parse(await asked.body())
            model = self.served.get(body["model"] if isinstance(body.get("model"), str) else "")
            name = model.name
            found: Response
            if isinstance(model, Forwarded):
                found = await _unless_left(
                    asked, forward(self.client, model, asked.url.path, body, self.limits.seconds)
                )
            else:
                talk = Conversation(model, read(body), self.limits.seconds)
                found = (
                    await self._streamed(asked, talk, stream(talk))
                    if talk.asked.stream
                    else JSONResponse(await _unless_left(asked, self._counted(talk, whole(talk))))
                )
            status = found.status_code
            return found
        except ApiError as error:
            status = error.status
            raise
        finally:
            self.metrics.requests.labels(name, asked.url.path, str(status)).inc()

    async def _streamed(self, asked: Request, talk: Conversation, events: AsyncIterator[bytes]) -> Response:
        """A stream, begun: what is refused before its first event is an answer of its own."""
        first = await _unless_left(asked, anext(events, None))

        async def all_of_them() -> AsyncIterator[bytes]:
            try:
                if first is not None:
                    yield first
                async for one in events:
                    yield one
                yield b"data: [DONE]\n\n"
            except ApiError as error:
                yield answers.event(error.body())
            finally:
                await events.aclose()  # type: ignore[attr-defined] # an async generator
                self._count(talk)

        return StreamingResponse(all_of_them(), media_type="text/event-stream", headers={"cache-control": "no-cache"})

    async def _counted(self, talk: Conversation, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        finally:
            self._count(talk)

    def _count(self, talk: Conversation) -> None:
        from time import perf_counter

        name = talk.model.name
        self.metrics.tokens.labels(name, "prompt").inc(talk.prompt_tokens)
        self.metrics.tokens.labels(name, "completion").inc(talk.completion_tokens)
        if talk.first:
            self.metrics.first.labels(name).observe(talk.first)
        self.metrics.whole.labels(name).observe(perf_counter() - talk.started)


async def _unless_left(asked: Request, work: Awaitable[Any]) -> Any:
    """What comes of the work, which is ended when the client hangs up."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(asked))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ApiError(499, "the client disconnected", code="client_left")
    finally:
        for one in (working, leaving):
            if not one.done():
                one.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await one


async def _left(asked: Request) -> None:
    while (await asked.receive())["type"] != "http.disconnect":
        pass


async def _refused(asked: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, ApiError)  # noqa: S101 - for the type checker
    headers = {"retry-after": "1"} if error.status == 429 else {}
    return JSONResponse(error.body(), error.status, headers)


async def _wrong_input(asked: Request, error: Exception) -> Response:  # noqa: ARG001
    """A template that raises, for one: its text is for the client."""
    told = ApiError(400, str(getattr(error, "what", error)), "messages", "invalid_value")
    return JSONResponse(told.body(), 400)


async def _nothing_here(asked: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    return JSONResponse(ApiError(status, f"{asked.method} {asked.url.path}: not found").body(), status)


async def _failed(asked: Request, error: Exception) -> Response:  # noqa: ARG001
    return JSONResponse(ApiError(500, f"the server failed: {type(error).__name__}", code="server_failed").body(), 500)


def build(served: Served, limits: Limits, names: Names, key: str | None = None) -> Starlette:
    """The application; its workers begin and end with it."""
    paths = _Paths(served, limits, Metrics(served))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
        for worker in served.workers:
            worker.start()
        # a connection that is kept may be closed by the other server just when it is used again
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx2.AsyncClient(trust_env=False, limits=limits) as paths.client:
            yield
        for worker in served.workers:
            await asyncio.to_thread(worker.close)

    routes = [
        Route("/v1/chat/completions", paths.chat, methods=["POST"]),
        Route("/v1/completions", paths.text, methods=["POST"]),
        Route("/v1/models", paths.models),
        Route("/v1/models/{name:path}", paths.model),
        Route("/health", paths.health),
        Route("/metrics", paths.figures),
    ]
    handlers: dict[Any, Any] = {
        ApiError: _refused, LoraplugError: _wrong_input, 404: _nothing_here, 405: _nothing_here, Exception: _failed,
    }  # fmt: skip
    return Starlette(
        routes=routes, middleware=[Middleware(Front, names, limits.body, key)], exception_handlers=handlers,
        lifespan=lifespan,
    )  # fmt: skip


__all__ = ["Limits", "Sampled", "build"]
