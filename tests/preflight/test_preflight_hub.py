"""What a hub on the loopback answers, as preflight tells it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loraplug import LoraplugError, Problem
from loraplug_export.hub_ask import push_problems
from loraplug_hf import remote
from loraplug_hf.loader import TransformersModel


class Hub(BaseHTTPRequestHandler):
    """A model `me/tiny` whose files are those of a folder, or one status for every call."""

    server: Any

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        """A file's facts."""
        self._answer()

    def do_GET(self) -> None:
        """Facts of the model, a file or a part of it, who asks."""
        self._answer()

    def _answer(self) -> None:
        state = self.server.state
        self.server.asked.append(self.path)
        if (status := state.get("status")) or (self.path.startswith("/api/whoami") and (status := state.get("whoami"))):
            self._say(status, json.dumps({"error": "no"}).encode())
        elif self.path.startswith("/api/whoami"):
            self._say(200, json.dumps({"name": "me", "auth": {"accessToken": {"role": state["role"]}}}).encode())
        elif self.path.startswith("/api/models/me/tiny"):
            files = [{"rfilename": path.name} for path in state["folder"].iterdir()]
            info = {"id": "me/tiny", "private": False, "gated": False, "sha": "a" * 40, "siblings": files}
            self._say(200, json.dumps(info).encode())
        elif self.path.startswith("/me/tiny/resolve/"):
            self._say(200, (state["folder"] / self.path.rpartition("/")[2]).read_bytes())
        else:
            self._say(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _say(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        begin, end = 0, len(data)
        if (part := self.headers.get("Range")) and status == 200:
            first, _, last = part.removeprefix("bytes=").partition("-")
            begin, end, status = int(first), min(int(last) + 1, len(data)), 206
        self.send_response(status)
        found = {
            "Content-Length": end - begin,
            "ETag": f'"{self.path.rpartition("/")[2]}"',
            "X-Repo-Commit": "a" * 40,
            **(headers or {}),
        }
        for name, value in found.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[begin:end])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path) -> Iterator[Any]:
    """The server; its `state` says what it answers, `asked` what it was asked."""
    from huggingface_hub import constants

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.state, server.asked = {"folder": tiny_model, "role": "write"}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(remote, "_known", {})
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    yield server
    server.shutdown()
    server.server_close()


def asked(id: str = "me/tiny", **options: Any) -> list[Problem]:  # noqa: A002
    from loraplug_hf.facts import told

    return told(TransformersModel(id=id, **options), ask=True)[1]


def test_facts_of_a_base_that_is_not_downloaded(hub: Any, tiny_model: Path) -> None:
    """Small files and the headers of the weights; asking again asks nothing."""
    from loraplug_hf.facts import told

    model = TransformersModel(id="me/tiny")
    facts, problems = told(model, ask=True)
    assert not problems and facts is not None
    here, _ = told(TransformersModel(id=str(tiny_model)))
    assert here is not None
    assert (facts.weights, facts.chat_template, facts.config) == (here.weights, here.chat_template, here.config)
    count = len(hub.asked)
    assert told(model)[0] == facts
    assert len(hub.asked) == count
    assert not any("model.safetensors" in path and "resolve" not in path for path in hub.asked)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "does not accept this token (401)"),
        (403, "no read access to it (403"),
        (404, "does not exist on the hub, or is private"),
        (429, "too many requests to the hub (429)"),
        (500, "the hub returned an error (500"),
    ],
)
def test_a_hub_that_refuses_the_base(hub: Any, status: int, words: str) -> None:
    hub.state["status"] = status
    (problem,) = asked("me/none" if status == 404 else "me/tiny")
    assert problem.path == "model.id" and words in problem.message


def test_no_hub_and_no_such_name(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    assert "is neither a hub id" in asked("no such folder!")[0].message
    hub.state["folder"] = Path(__file__).parent
    assert "has no config.json" in asked()[0].message
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub could not be reached" in asked()[0].message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in asked()[0].message


def test_what_would_stop_a_push(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name, the token, its rights, a public repository."""
    from huggingface_hub import constants

    def one(repo: str = "me/new", private: bool = True) -> str:
        return "; ".join(problem.message for problem in push_problems(repo, private))

    assert one() == ""
    assert "is public already" in one("me/tiny")
    assert one("me/tiny", private=False) == ""
    hub.state["role"] = "read"
    assert "may only read" in one()
    for status, words in ((401, "does not accept the token (401)"), (403, "(403)"), (429, "too many requests")):
        hub.state["whoami"] = status
        assert words in one()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub could not be reached" in one()
    assert "choose another name" in one("me/a--b")
    monkeypatch.delenv("HF_TOKEN")
    assert "no token" in one()


def test_what_is_refused_is_one_family(hub: Any) -> None:
    hub.state["status"] = 429
    with pytest.raises(LoraplugError):
        remote.facts("me/tiny", None, ask=True)
