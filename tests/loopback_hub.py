"""A hub on the loopback that speaks what huggingface_hub asks of one: models are listed, downloaded and pushed.

It keeps whole commits in memory. Tests say what it refuses (`Repository.gated`, `Hub.faults` …) and see what it was
asked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_" + "x" * 34  # the one account there is


@dataclass
class Repository:
    """One model: its commits, and where its branches and tags point."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], ref: str = "main") -> str:
        """Put files on top of a branch; gives the new commit."""
        whole = {**self.files(ref), **files}
        listing = json.dumps([(name, _oid(data)) for name, data in sorted(whole.items())])
        sha = hashlib.sha1(f"{len(self.commits)} {listing}".encode(), usedforsecurity=False).hexdigest()
        self.commits[sha], self.refs[ref] = whole, sha
        return sha

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The files of a branch, tag or commit."""
        return self.commits.get(self.refs.get(revision, revision), {})


@dataclass
class Fault:
    """What the hub does in place of its answer, to the first `times` requests whose path holds `path`."""

    path: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # bytes sent of a file before the connection is closed
    stall: threading.Event | None = None  # waited for in the middle of a file


class Hub:
    """The server's state."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, str, str]] = []  # method, path, range
        self.sizes: dict[str, int] = {}  # what listings claim of files, in place of the truth
        self.address = ""

    def add(self, name: str, files: Mapping[str, bytes] | Path, **facts: Any) -> Repository:
        """A repository with one commit: these files, or all of a folder."""
        if isinstance(files, Path):
            files = {
                path.relative_to(files).as_posix(): path.read_bytes() for path in files.rglob("*") if path.is_file()
            }
        self.repositories[name] = Repository(**facts)
        self.repositories[name].commit(files)
        return self.repositories[name]

    def downloads(self) -> list[str]:
        """The files whose content was asked for, in order of their names."""
        return sorted(
            path.split("/", 5)[-1] for method, path, _ in self.asked if method == "GET" and "/resolve/" in path
        )


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class _RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": message}
        self.status, self.answer = status, {"error": message}
        self.headers = {key: value for key, value in told.items() if value} | headers


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(self._read)

    def do_GET(self) -> None:
        self._answer(self._read)

    def do_POST(self) -> None:
        self._answer(self._write)

    def _answer(self, work: Callable[[Hub, str, bytes], Any]) -> None:
        hub, path = self.server.hub, urlsplit(self.path).path
        hub.asked.append((self.command, path, self.headers.get("Range") or ""))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if fault := self._fault(path, body=False):
                raise _RefusedError(fault.status, message="not now", **fault.headers)
            answer = work(hub, path, body)
            if answer is not None:
                self._say(200, answer, {})
        except _RefusedError as refused:
            self._say(refused.status, refused.answer, refused.headers)

    # reading

    def _read(self, hub: Hub, path: str, _: bytes) -> Any:
        api = re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+)(?:/(.+))?)?", path)
        file = re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name, ref = (api[1], api[3] or "main") if api else (file[1], file[2]) if file else ("", "")
        repository = self._allowed(hub, name)
        if repository.gated and (file or (api and api[2] == "tree")):
            raise _RefusedError(403 if self._known() else 401, "GatedRepo", "Access to this model is restricted")
        sha = repository.refs.get(unquote(ref), unquote(ref))
        if sha not in repository.commits:
            raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {ref}")
        files = repository.commits[sha]
        if file:
            if (data := files.get(unquote(file[3]))) is None:
                raise _RefusedError(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": sha})
            return self._file(path, data, sha)
        if api and api[2] == "tree":
            below = [key for key in files if not api[4] or key.startswith(f"{unquote(api[4])}/")]
            if not below:
                raise _RefusedError(404, "EntryNotFound", f"{api[4]} does not exist")
            sizes = {key: hub.sizes.get(key, len(data)) for key, data in files.items()}
            return [{"type": "file", "oid": _oid(files[key]), "size": sizes[key], "path": key} for key in below]
        siblings = [{"rfilename": key} for key in files]
        return {"id": name, "modelId": name, "sha": sha, "private": repository.private, "siblings": siblings}

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _allowed(self, hub: Hub, name: str) -> Repository:
        repository = hub.repositories.get(name)
        if "Authorization" in self.headers and not self._known():
            raise _RefusedError(401, message="Invalid credentials in Authorization header")
        if repository is not None and (self._known() or not repository.private):
            return repository
        if self._known():
            raise _RefusedError(404, "RepoNotFound", "Repository not found")
        raise _RefusedError(401, message="Invalid username or password.")  # as the hub has it: missing, or private

    def _file(self, path: str, data: bytes, sha: str) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        part = data[start:]
        told = {"X-Repo-Commit": sha, "ETag": f'"{_oid(data)}"', "Accept-Ranges": "bytes"}
        size = self.server.hub.sizes.get(path.rpartition("/")[2], len(part))
        told |= {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        if wanted:
            told["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._head(206 if wanted else 200, told)
        if self.command == "HEAD":
            return
        fault = self._fault(path, body=True)
        self.wfile.write(part if fault is None else part[: fault.cut])
        if fault is not None:
            self.wfile.flush()
            if fault.stall is not None:
                fault.stall.wait(60)
            self.close_connection = True

    # writing

    def _paths(self, hub: Hub, name: str, ref: str, body: bytes) -> Any:
        """What is known of some files of a data set, as its file system asks."""
        repository = self._allowed(hub, name)
        files = repository.commits[repository.refs.get(ref, ref)]
        asked = [one.split("=", 1)[1] for one in unquote(body.decode()).split("&") if one.startswith("paths=")]
        found = [one.strip("/") for one in asked]
        made = [{"type": "file", "oid": _oid(files[key]), "size": len(files[key]), "path": key} for key in found
                if key in files]  # fmt: skip
        folders = [key for key in found if any(one.startswith(f"{key}/") for one in files)]
        return made + [{"type": "directory", "oid": "0" * 40, "path": key} for key in folders]

    def _write(self, hub: Hub, path: str, body: bytes) -> Any:
        if asked := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", path):
            return self._paths(hub, asked[1], unquote(asked[2]), body)
        if not self._known():
            raise _RefusedError(401, message="Invalid username or password.")
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path)
        if path == "/api/repos/create":
            return self._create(hub, json.loads(body))
        if not found:
            return {}  # the check of a card, and the like
        name, what, ref = found[1], found[2], unquote(found[3])
        repository = self._allowed(hub, name)
        if what == "branch":
            if ref in repository.refs:
                raise _RefusedError(409, message="Reference already exists")
            repository.refs[ref] = repository.refs["main"]
            return {}
        if ref not in repository.refs:
            raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {ref}")
        if what == "preupload":
            asked = [one["path"] for one in json.loads(body)["files"]]
            return {"files": [{"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in asked]}
        lines = [json.loads(line) for line in body.splitlines()]
        files = [line["value"] for line in lines if line["key"] == "file"]
        sha = repository.commit({one["path"]: base64.b64decode(one["content"]) for one in files}, ref)
        repository.messages += [line["value"]["summary"] for line in lines if line["key"] == "header"]
        return {"commitUrl": f"{hub.address}/{name}/commit/{sha}", "commitOid": sha, "success": True}

    def _create(self, hub: Hub, asked: Mapping[str, Any]) -> Any:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{hub.address}/{name}"
        if name in hub.repositories:
            refused = _RefusedError(409, message="You already created this model repo")
            refused.answer["url"] = url
            raise refused
        private = bool(asked.get("private") or asked.get("visibility") == "private")
        hub.add(name, {".gitattributes": b""}, private=private)
        return {"url": url, "id": "1", "name": name}

    # answering

    def _fault(self, path: str, *, body: bool) -> Fault | None:
        for fault in self.server.hub.faults:
            if fault.times > 0 and fault.path in path and (fault.status == 0) == body:
                fault.times -= 1
                return fault
        return None

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _say(self, status: int, answer: Any, headers: Mapping[str, str]) -> None:
        data = json.dumps(answer).encode()
        self._head(status, {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers})
        if self.command != "HEAD":
            self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is what tests are about."""


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub for a while."""
    hub = Hub()
    server = _Server(hub)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def point_at(address: str, cache: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the client in this process ask `address`; it has read HF_ENDPOINT and the like when it was imported."""
    from huggingface_hub import constants

    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    patch.delenv("HF_TOKEN", raising=False)


def wait_for(condition: Any, seconds: float = 60) -> None:
    """Until a condition holds.

    Raises:
        TimeoutError: it did not.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)
