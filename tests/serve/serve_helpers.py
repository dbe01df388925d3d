"""The real server in a process of its own, and requests to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], log: Path, port: int) -> None:
        self.process, self.log, self.port = process, log, port
        self.address = f"http://127.0.0.1:{port}"

    def client(self, **more: Any) -> Any:
        """The real client."""
        import openai

        return openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0, timeout=120, **more)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Stop it as a user would; gives its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def serving(folder: Path, *words: object, env: dict[str, str] | None = None) -> Iterator[Served]:
    """`loraplug serve` with these words, on a free port."""
    port, log = free_port(), folder / "serve.log"
    command = [sys.executable, "-m", "loraplug", "serve", *map(str, words), "--port", str(port)]
    given = os.environ | {"LORAPLUG_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", **(env or {})}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=given, stdout=out, stderr=out, text=True)
    try:
        end = time.monotonic() + 300
        while "ctrl-c ends it" not in log.read_text() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert process.poll() is None, log.read_text()
        yield Served(process, log, port)
    finally:
        process.kill()
        process.wait()


def post(address: str, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    """Status and JSON of a request without OpenAI's library."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = httpx2.post(
        address + path, content=data, headers={"content-type": "application/json"} | headers, timeout=120
    )
    return found.status_code, found.json()
