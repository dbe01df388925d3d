"""What stands before the server: who may ask, with what key, and how much."""

from __future__ import annotations

import asyncio
import hmac
import json
from typing import Any

from attrs import define

from loraplug_serve.guard import Names, foreign, headers_of, read_body, replayed
from loraplug_serve.server.errors import ApiError

_DRAIN_SECONDS = 5
_BODY_SECONDS = 60
_OPEN = ("/health",)


@define
class Front:
    """ASGI middleware: refuses foreign names and origins, a wrong key, and bodies that are too large.

    Attributes:
        names: by which the server may be called.
        most: bytes of a body.
        key: what clients have to bring as a bearer token; None asks for none. `/health` is open to all.
    """

    app: Any
    names: Names
    most: int
    key: str | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return
        headers = headers_of(scope)
        try:
            self._admit(scope, headers)
            async with asyncio.timeout(_BODY_SECONDS):
                body = await self._body(headers, receive)
        except ApiError as error:
            await _refuse(error, receive, send)
            return
        except TimeoutError:
            late = ApiError(408, f"the request body did not arrive within {_BODY_SECONDS} seconds", code="timeout")
            await _refuse(late, receive, send)
            return
        await self.app(scope, replayed(body, receive), send)

    def _admit(self, scope: Any, headers: dict[str, list[str]]) -> None:
        if why := foreign(scope, headers, self.names, "loraplug serve"):
            raise ApiError(403, why, code="foreign_caller")
        if self.key is None or scope["path"] in _OPEN:
            return
        given = headers.get("authorization", [""])[0]
        if not hmac.compare_digest(given.encode(), f"Bearer {self.key}".encode()):
            what = "this server requires a key: send it as Authorization: Bearer KEY"
            raise ApiError(401, what, code="invalid_api_key")

    async def _body(self, headers: dict[str, list[str]], receive: Any) -> bytes:
        told = headers.get("content-length", ["0"])[0]
        if told.isdecimal() and int(told) > self.most:
            raise self._too_large()
        if (body := await read_body(receive, self.most)) is None:
            raise self._too_large()
        return body

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the request body is larger than {self.most} bytes", code="body_too_large")


async def _refuse(error: ApiError, receive: Any, send: Any) -> None:
    """Answer at once; what is still being sent is dropped for a while, as most clients read only when they are done."""
    body = json.dumps(error.body()).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b""})
