"""What stands before the page: who may call it, by what name, and for what.

A page that listens on 127.0.0.1 is reached by every site the browser shows: by requests across origins, and, where a
name of the site is made to mean 127.0.0.1 (DNS rebinding), as if the page were the site's own.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field

MOST = 4 << 20
"""Bytes of a request's body: what is typed or pasted. There is nothing to upload."""

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::\d{1,5})?", re.ASCII)
_READ = {
    "/", "/config", "/config/", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt",
    *(f"/gradio_api/{name}" for name in ("theme.css", "info", "info/", "app_id", "startup-events", "queue/data")),
}  # fmt: skip
_READ_BELOW = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
_SENT = {f"/gradio_api/{name}" for name in ("queue/join", "cancel", "reset", "reset/")}
_SENT_BELOW = ("/gradio_api/run/",)
_HEADERS = (
    (b"content-security-policy", b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; "
     b"base-uri 'self'; frame-ancestors 'self'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)  # fmt: skip


@define
class Names:
    """By what names the page may be called.

    Attributes:
        named: host names that are trusted, in lower case; the page's public address is added when it has one.
        anywhere: the page listens beyond this machine, so it may be called by any IP address, which no other site can
            have as its name.
    """

    named: set[str] = field(factory=set)
    anywhere: bool = False

    @classmethod
    def of(cls, host: str, trusted: Iterable[str] = ()) -> Names:
        """For a page that listens on `host`; `trusted` are further names."""
        named = {name.lower().rstrip(".") for name in trusted}
        if is_loopback(host):
            return cls(named)
        own = {name.lower() for name in (host, socket.gethostname(), socket.getfqdn())}
        return cls(named | own | {f"{name}.local" for name in own if "." not in name}, anywhere=True)

    def trusts(self, host: str) -> bool:
        """Whether the page may be called by this name or address."""
        if host in self.named or is_loopback(host):
            return True
        with suppress(ValueError):
            ip_address(host)
            return self.anywhere
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


@define
class Guard:
    """ASGI middleware: refuses foreign names and origins, large bodies, and whatever the page itself does not ask for.

    Gradio serves much more than a page needs: uploads, files, proxies, recordings. Only what is listed is let through.
    """

    app: Any
    names: Names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":  # a websocket, which the page has no use for
            return
        status, why = self._refusal(scope)
        body = b""
        if not status and scope["method"] == "POST":
            found = await read_body(receive, MOST)
            status, why = (413, "too large") if found is None else (0, "")
            body = found or b""
            receive = replayed(body, receive)
        if status:
            await _answer(send, status, why)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self.app(scope, receive, with_headers)

    def _refusal(self, scope: Any) -> tuple[int, str]:
        """Status and reason; 0 where there is none."""
        if why := foreign(scope, headers_of(scope), self.names, "loraplug web"):
            return 403, why
        path = scope["path"]
        reads = scope["method"] in ("GET", "HEAD")
        known, below = (_READ, _READ_BELOW) if reads else (_SENT, _SENT_BELOW)
        if not (path in known or path.startswith(below)) or scope["method"] not in ("GET", "HEAD", "POST"):
            return 404, "not found"
        return 0, ""


def headers_of(scope: Any) -> dict[str, list[str]]:
    """The headers of an ASGI request, by name in lower case."""
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return headers


def foreign(scope: Any, headers: dict[str, list[str]], names: Names, command: str) -> str:
    """Why a request is not let in, by the name it calls and the site it comes from; empty where it is.

    Args:
        headers: what `headers_of` gives.
        command: whose option lets further names in.
    """
    hosts, origins = headers.get("host", []), headers.get("origin", [])
    name = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if name is None or not names.trusts((name[1] or name[2]).lower().rstrip(".")):
        return f"this host name is not trusted; {command} --trusted-host NAME adds one"
    if not all(_is_own(origin, hosts[0], names) for origin in origins):
        return "asked by another site"
    site, mode = (headers.get(f"sec-fetch-{what}", [""])[0] for what in ("site", "mode"))
    reads = scope["method"] in ("GET", "HEAD")
    if site in ("cross-site", "same-site") and not (reads and mode == "navigate"):
        return "asked by another site"
    return ""


def _is_own(origin: str, host: str, names: Names) -> bool:
    """Whether a request comes from the page itself: from where it is called, or from a name that is trusted."""
    try:
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and (
            parts.netloc.lower() == host.lower() or (parts.hostname or "") in names.named
        )
    except ValueError:
        return False


async def read_body(receive: Any, most: int) -> bytes | None:
    """A request's body; None if it is larger than `most` bytes."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def replayed(body: bytes, receive: Any) -> Any:
    """A `receive` that gives a body that was read already, then what comes."""
    given = False

    async def again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Any, status: int, why: str) -> None:
    text = f"{why}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text)), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
