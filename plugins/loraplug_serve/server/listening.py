"""The socket and the web server that keeps it."""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable
from typing import Any

import uvicorn

from loraplug import InputError

_LAST_SECONDS = 5


def listen(host: str, port: int) -> sockets.socket:
    """A socket that is bound, and not listened on yet.

    Raises:
        InputError: there is no such address, or something else has the port.
    """
    try:
        family, kind, number, _, address = sockets.getaddrinfo(host, port, type=sockets.SOCK_STREAM)[0]
        found = sockets.socket(family, kind, number)
    except sockets.gaierror:
        raise InputError("no such address", where=f"--host {host}", todo="give 127.0.0.1, or leave it out") from None
    try:
        found.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        found.bind(address)
        # without it, two could bind the port before either listens
        found.listen(128)
    except OSError as error:
        found.close()
        todo = f"stop what listens there, or choose another: --port {port + 1 if port < 65535 else port - 1}"
        raise InputError(f"cannot listen on {host}:{port} ({error.strerror})", where="--port", todo=todo) from None
    return found


class _Server(uvicorn.Server):
    """Tells when it listens."""

    ready: Callable[[], None]

    async def startup(self, sockets: Any = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self.started:
            self.ready()


def run_until_stopped(app: Any, socket: sockets.socket, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or ctrl-c; answers under way get five more seconds.

    Args:
        ready: told the address once requests are taken.
    """
    host, port = socket.getsockname()[:2]
    config = uvicorn.Config(
        app, log_level="critical", access_log=False, server_header=False, timeout_graceful_shutdown=_LAST_SECONDS,
        lifespan="on", proxy_headers=False,
    )  # fmt: skip
    server = _Server(config)
    server.ready = lambda: ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    try:
        server.run(sockets=[socket])
    except (KeyboardInterrupt, SystemExit):  # uvicorn raises the signal again when it is done
        if not server.should_exit:
            raise
