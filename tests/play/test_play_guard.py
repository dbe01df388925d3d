"""What the page's guard lets through and what it refuses, asked as browsers and attackers ask."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from loraplug_serve.guard import MOST, Guard, Names

HOST = "127.0.0.1:7860"


def ask(
    names: Names, path: str = "/config", method: str = "GET", body: tuple[bytes, ...] = (b"",), **headers: str | None
) -> tuple[int, bytes, dict[str, str]]:
    """Status, what the page behind the guard got or the guard said, and the headers of the answer."""

    async def page(scope: Any, receive: Any, send: Any) -> None:
        got = b""
        while True:
            message = await receive()
            got += message["body"]
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page:" + got})

    sent: list[Any] = []
    given = [*body]

    async def receive() -> Any:
        return {"type": "http.request", "body": given.pop(0), "more_body": bool(given)}

    async def send(message: Any) -> None:
        sent.append(message)

    named = {"host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in named.items() if value is not None]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs}
    asyncio.run(Guard(page, names)(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], sent[1]["body"], answered


LOCAL = Names.of("127.0.0.1")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:7860", "LocalHost", "[::1]:7860", "127.3.2.1", "localhost."]
)
def test_the_page_is_called_by_its_own_names(host: str) -> None:
    status, body, headers = ask(LOCAL, host=host)
    assert (status, body) == (200, b"page:")
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.5:7860", "",
     "localhost@evil.example", "evil.example@localhost", "evil.example#@localhost", "[::1",
     "127.0.0.1:7860, evil.example", "0x7f.1", None],
)  # fmt: skip
def test_no_other_name_is_served(host: str | None) -> None:
    """A name that a site owns may be made to mean 127.0.0.1: what is asked by it comes from that site."""
    for path, method in (("/", "GET"), ("/config", "GET"), ("/gradio_api/queue/join", "POST")):
        status, body, headers = ask(LOCAL, path, method, host=host)
        assert status == 403 and b"page:" not in body
        assert "access-control-allow-origin" not in headers


def test_beyond_this_machine_any_address_and_the_names_it_has() -> None:
    """An address cannot be another site's name; names are this machine's, those given, and the public one."""
    names = Names.of("0.0.0.0", ["Page.Example."])  # noqa: S104 - what is tested
    for host in ("192.168.1.5:7860", "[fe80::1]:7860", socket.gethostname(), "page.example", HOST):
        assert ask(names, host=host)[0] == 200, host
    assert ask(names, host="evil.example")[0] == 403
    names.named.add("abc.gradio.live")
    assert ask(names, host="abc.gradio.live", origin="https://abc.gradio.live")[0] == 200
    assert ask(names, host=HOST, origin="https://abc.gradio.live")[0] == 200, "a proxy may put its own name there"
    assert ask(names, host=HOST, origin="https://xyz.gradio.live")[0] == 403


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "https://127.0.0.1.evil.example", "null", "http://localhost:3000", "http://127.0.0.1",
     "http://127.0.0.1:7861", "file://", "chrome-extension://abc", "http://[::1", "http://user@127.0.0.1:7860"],
)  # fmt: skip
def test_foreign_origins_are_refused(origin: str) -> None:
    """Also those of other pages of this machine; whether something is read or sent."""
    for path, method in (("/gradio_api/queue/join", "POST"), ("/gradio_api/run/predict", "POST"), ("/config", "GET")):
        status, body, _ = ask(LOCAL, path, method, (b"{}",), origin=origin)
        assert status == 403 and b"page:" not in body


def test_requests_without_an_origin_that_browsers_mark_as_foreign() -> None:
    """A form or a picture of another site; a link to the page may be followed."""
    sent = ask(
        LOCAL, "/gradio_api/queue/join", "POST", (b"{}",), sec_fetch_site="cross-site", sec_fetch_mode="navigate"
    )
    assert sent[0] == 403
    assert ask(LOCAL, "/config", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")[0] == 403
    assert ask(LOCAL, "/", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 200
    own = {"origin": f"http://{HOST}", "sec_fetch_site": "same-origin"}
    assert ask(LOCAL, "/gradio_api/queue/join", "POST", (b"{}", b"[]"), **own)[:2] == (200, b"page:{}[]")
    assert ask(LOCAL, "/gradio_api/queue/join", "POST", (b"{}",))[0] == 200, "programs send neither"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/gradio_api/upload"), ("POST", "/upload"), ("GET", "/gradio_api/file=/etc/passwd"),
     ("GET", "/monitoring"),
     ("GET", "/gradio_api/proxy=http://x"), ("POST", "/gradio_api/component_server"), ("POST", "/login"),
     ("POST", "/gradio_api/process_recording"), ("POST", "/gradio_api/vibe-edit"), ("GET", "/gradio_api/runs"),
     ("POST", "/gradio_api/run-history/connect"), ("PUT", "/config"), ("OPTIONS", "/gradio_api/queue/join"),
     ("POST", "/gradio_api/queue/join/../../upload"), ("GET", "/gradio_api/upload"), ("GET", "/dev/reload")],
)  # fmt: skip
def test_only_what_a_page_needs_is_served(method: str, path: str) -> None:
    """Gradio would upload, proxy, record and show files."""
    assert ask(LOCAL, path, method)[0] == 404


def test_a_body_has_a_limit_whatever_its_head_says() -> None:
    """In pieces, without a length; it is read no further."""
    part = b"x" * (1 << 20)
    assert ask(LOCAL, "/gradio_api/queue/join", "POST", (part,) * (MOST >> 20))[0] == 200
    assert ask(LOCAL, "/gradio_api/queue/join", "POST", (part,) * 64)[0] == 413
    assert ask(LOCAL, "/gradio_api/queue/join", "POST", (b"x" * (MOST + 1),), content_length="3")[0] == 413
