"""Requests passed on to another server: llama.cpp's own in this process, or one at a URL."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
from starlette.responses import Response, StreamingResponse

from loraplug_serve.server.errors import ApiError
from loraplug_serve.server.served import Forwarded

_MODEL = re.compile(rb'"model":\s*"(?:[^"\\]|\\.)*"')


async def forward(
    client: httpx2.AsyncClient, model: Forwarded, path: str, body: Mapping[str, Any], seconds: float
) -> Response:
    """The other server's answer, as it comes. When the client of ours hangs up, the other server's does too.

    Raises:
        ApiError: the other server cannot be reached.
    """
    headers = {} if model.key is None else {"authorization": f"Bearer {model.key}"}
    sent = {**body, **model.more, "model": model.theirs}
    request = client.build_request(
        "POST", f"{model.address}{path}", json=sent, headers=headers, timeout=httpx2.Timeout(seconds, connect=10)
    )
    try:
        found = await client.send(request, stream=True)
    except httpx2.HTTPError as error:
        raise unreachable(model, error) from error
    kind = found.headers.get("content-type", "application/json")
    if found.status_code == 200 and kind.startswith("text/event-stream"):
        return StreamingResponse(_events(found, model), media_type="text/event-stream")
    try:
        text = await found.aread()
    except httpx2.HTTPError as error:
        raise unreachable(model, error) from error
    finally:
        await found.aclose()
    return Response(_named(text, model) if found.status_code == 200 else _error(text, found.status_code),
                    found.status_code, media_type="application/json")  # fmt: skip


def unreachable(model: Forwarded, error: Exception) -> ApiError:
    """What to say of a server that does not answer."""
    return ApiError(502, f"{model.name}: its server does not respond ({type(error).__name__})", code="upstream_failed")


async def _events(found: httpx2.Response, model: Forwarded) -> AsyncIterator[bytes]:
    ours = f'"model":{json.dumps(model.name)}'.encode()
    rest = b""
    try:
        async for chunk in found.aiter_bytes():
            if not model.renamed:
                yield chunk
                continue
            whole, end, rest = (rest + chunk).rpartition(b"\n\n")  # a name may be cut by the end of a chunk
            if end:
                # llama.cpp names the file; within a text the quotes would be escaped
                yield _MODEL.sub(lambda _: ours, whole + end)
        if rest:
            yield _MODEL.sub(lambda _: ours, rest)
    except httpx2.HTTPError as error:
        yield f"data: {json.dumps(unreachable(model, error).body())}\n\n".encode()
    finally:
        await found.aclose()


def _named(text: bytes, model: Forwarded) -> bytes:
    """An answer under the name by which the model is served here."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return json.dumps({**found, "model": model.name}).encode() if isinstance(found, dict) else text


def _error(text: bytes, status: int) -> bytes:
    """An error in OpenAI's shape, whatever shape the other server has for it."""
    try:
        found = json.loads(text)["error"]
        told = {"message": str(found["message"]), "type": str(found.get("type", "upstream_error")),
                "param": found.get("param"), "code": found.get("code")}  # fmt: skip
        return json.dumps({"error": told}).encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        said = " ".join(text[:300].decode("utf-8", "replace").split())
        return json.dumps(ApiError(status, f"the model's server says: {said}").body()).encode()
