"""Pushes, with the real client, to a hub on the loopback."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loraplug import InputError, LoraplugError
from loraplug_export.adapter import AdapterExporter
from loraplug_export.hub import HubExporter

TOKEN = "hf_" + "x" * 34


class Hub(BaseHTTPRequestHandler):
    """The few calls that a push makes; `server.state` keeps what was asked."""

    def log_message(self, *_):
        """Keep quiet."""

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _say(self, status, answer):
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _allowed(self):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._say(401, {"error": "Invalid username or password."})
        return False

    def do_GET(self):
        """A repository's facts."""
        state = self.server.state
        if self._allowed():
            info = {"id": "me/tiny", "modelId": "me/tiny", "private": state["private"], "siblings": [], "sha": "0" * 40}
            self._say(200, info)

    def do_POST(self):
        """Make a repository, say how files are to come, take a commit."""
        body, state = self._body(), self.server.state
        if not self._allowed():
            return
        address = f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            if state["exists"]:
                self._say(409, {"error": "exists", "url": f"{address}/me/tiny"})
                return
            asked = json.loads(body)
            state.update(exists=True, private=bool(asked.get("private") or asked.get("visibility") == "private"))
            self._say(200, {"url": f"{address}/me/tiny", "id": "1", "name": "me/tiny"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            kept = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self._say(200, {"files": kept})
        elif "/commit/" in self.path:
            if state["broken"]:
                self._say(400, {"error": "disk on fire"})
                return
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    state["files"][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "header":
                    state["message"] = value["summary"]
            self._say(200, {"commitUrl": f"{address}/me/tiny/commit/1", "commitOid": "1" * 40, "success": True})
        else:
            state["others"].append(self.path)
            self._say(200, {"ok": True})


@pytest.fixture
def hub(monkeypatch):
    """The hub's state; the client is pointed at it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.state = {"exists": False, "private": False, "files": {}, "message": "", "broken": False, "others": []}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    import huggingface_hub.constants
    import huggingface_hub.hf_api

    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server.state
    server.shutdown()
    server.server_close()


@pytest.fixture
def result(make_base, make_adapter, trained):
    from peft import LoraConfig

    base = make_base()
    adapter = make_adapter(base, LoraConfig(r=4, target_modules=["q_proj"]))
    return trained(adapter, base, base_id="someone/base")


def test_push_is_private_and_has_a_card(hub, result, tmp_path):
    """The adapter folder arrives whole in a private repository, and a receipt is left."""
    exporter = HubExporter(repo="me/tiny")
    receipt = json.loads(exporter.export(result, tmp_path / "receipt.json").read_text())
    assert hub["private"] is True and receipt["private"] is True
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= hub["files"].keys()
    assert hub["files"]["adapter_model.safetensors"] == (result.adapter / "adapter_model.safetensors").read_bytes()
    assert "base_model: someone/base" in hub["files"]["README.md"].decode()
    assert hub["message"] == "adapter of tiny" and receipt["commit"] == "1" * 40
    assert [path.name for path in tmp_path.glob("receipt*")] == ["receipt.json"]
    assert exporter.place(result.run) == result.run.outputs / "hub" / "tiny-adapter.json"


def test_folder_of_the_run_is_pushed(hub, result, trained, tmp_path):
    """What this run's exporter has made is pushed, not made again."""
    from attrs import evolve

    made = AdapterExporter().export(result, tmp_path / "adapters")
    (made / "note.txt").write_text("mine")
    HubExporter(repo="me/tiny", private=False, message="first").export(
        evolve(result, artefacts={"adapter": made}), tmp_path / "receipt.json"
    )
    assert hub["files"]["note.txt"] == b"mine" and hub["message"] == "first" and hub["private"] is False


def test_a_push_tells_nothing_of_the_machine(hub, result, tmp_path):
    """Neither card nor lock nor the adapter's config; the folder that stays here is as it was."""
    from attrs import evolve

    lock = tmp_path / "recipe.lock.toml"
    lock.write_text(f'run_name = "x"\n[dataset]\npath = "../../home/ann/rows.jsonl"\n[lock]\nfolder = "{tmp_path}"\n')
    local = evolve(result, base_id=str(result.base), extras={lock.name: lock})
    made = AdapterExporter().export(local, tmp_path / "adapters")
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    HubExporter(repo="me/tiny").export(evolve(local, artefacts={"adapter": made}), tmp_path / "receipt.json")
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    assert hub["files"].keys() == before.keys()
    told = b"".join(data for name, data in hub["files"].items() if not name.endswith(".safetensors"))
    assert str(tmp_path).encode() not in told and b"/ann/" not in told and str(result.base.parent).encode() not in told
    assert json.loads(hub["files"]["adapter_config.json"])["base_model_name_or_path"] == result.base.name
    assert b'"dataset.path"' in hub["files"]["recipe.lock.toml"] and str(tmp_path).encode() in before[lock.name]


def test_nothing_with_a_secret_in_it_is_pushed(hub, result, tmp_path):
    """A file that a plugin has published, say: it is named, and nothing goes."""
    from attrs import evolve

    notes = tmp_path / "notes.md"
    notes.write_text("cloned from https://me:hunter22@host/x")
    with pytest.raises(LoraplugError, match="looks like a secret") as caught:
        HubExporter(repo="me/tiny").export(evolve(result, extras={"notes.md": notes}), tmp_path / "receipt.json")
    assert "notes.md" in str(caught.value) and "hunter22" not in str(caught.value)
    assert not hub["files"] and not hub["exists"] and not list(tmp_path.glob("receipt*"))


def test_public_repository_is_left_alone(hub, result, tmp_path):
    """`private` is a promise: nothing goes to a repository that is public already."""
    hub.update(exists=True, private=False)
    with pytest.raises(InputError, match="public already"):
        HubExporter(repo="me/tiny").export(result, tmp_path / "receipt.json")
    assert not hub["files"] and not list(tmp_path.glob("receipt*"))


def test_wrong_token_and_refusal(hub, result, tmp_path, monkeypatch):
    """A token without rights is the user's matter, a refusal of the hub is not."""
    hub["broken"] = True
    with pytest.raises(LoraplugError, match="hub refused"):
        HubExporter(repo="me/tiny").export(result, tmp_path / "receipt.json")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match=r"token"):
        HubExporter(repo="me/tiny").export(result, tmp_path / "receipt.json")
    assert not list(tmp_path.glob("receipt*"))


def test_hub_that_is_not_there(result, tmp_path, monkeypatch):
    """No connection is said in one line."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(LoraplugError, match="not reached"):
        HubExporter(repo="me/tiny").export(result, tmp_path / "receipt.json")


@pytest.mark.parametrize("repo", ["tiny", "a/b/c", "../x", "me/--help ", "-x/y", ""])
def test_repository_names(repo):
    """owner/name, nothing else."""
    with pytest.raises(ValueError, match="repo"):
        HubExporter(repo=repo)
