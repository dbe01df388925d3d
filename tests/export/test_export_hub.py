"""Pushes, with the real client, to a hub on the loopback."""

from __future__ import annotations

import json

import pytest

from loopback_hub import TOKEN, Fault, point_at, serving
from loraplug import Artefact, InputError, LoraplugError
from loraplug_export.adapter import AdapterExporter
from loraplug_export.hub import HubExporter


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub; the client is pointed at it, and logged in."""
    with serving() as hub:
        point_at(hub.address, tmp_path / "hub-cache", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def pushed(hub, branch="main"):
    """The files of the one repository."""
    return {name: data for name, data in hub.repositories["me/tiny"].files(branch).items() if name[0] != "."}


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
    repository, files = hub.repositories["me/tiny"], pushed(hub)
    assert repository.private is True and receipt["private"] is True
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= files.keys()
    assert files["adapter_model.safetensors"] == (result.adapter / "adapter_model.safetensors").read_bytes()
    assert "base_model: someone/base" in files["README.md"].decode()
    assert repository.messages == ["adapter of tiny"] and receipt["commit"] == repository.refs["main"]
    assert [path.name for path in tmp_path.glob("receipt*")] == ["receipt.json"]
    assert exporter.place(result.run) == result.run.outputs / "hub" / "tiny-adapter.json"


def test_folder_of_the_run_is_pushed(hub, result, trained, tmp_path):
    """What this run's exporter has made is pushed, not made again."""
    from attrs import evolve

    made = AdapterExporter().export(result, tmp_path / "adapters")
    (made / "note.txt").write_text("mine")
    HubExporter(repo="me/tiny", private=False, message="first").export(
        evolve(result, artefacts=[Artefact("adapter", made)]), tmp_path / "receipt.json"
    )
    repository = hub.repositories["me/tiny"]
    assert pushed(hub)["note.txt"] == b"mine" and repository.messages == ["first"] and repository.private is False


def test_a_push_tells_nothing_of_the_machine(hub, result, tmp_path):
    """Neither card nor lock nor the adapter's config; the folder that stays here is as it was."""
    from attrs import evolve

    lock = tmp_path / "recipe.lock.toml"
    lock.write_text(f'run_name = "x"\n[dataset]\npath = "../../home/ann/rows.jsonl"\n[lock]\nfolder = "{tmp_path}"\n')
    local = evolve(result, base_id=str(result.base), extras={lock.name: lock})
    made = AdapterExporter().export(local, tmp_path / "adapters")
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    HubExporter(repo="me/tiny").export(evolve(local, artefacts=[Artefact("adapter", made)]), tmp_path / "receipt.json")
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    files = pushed(hub)
    assert files.keys() == before.keys()
    told = b"".join(data for name, data in files.items() if not name.endswith(".safetensors"))
    assert str(tmp_path).encode() not in told and b"/ann/" not in told and str(result.base.parent).encode() not in told
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == result.base.name
    assert b'"dataset.path"' in files["recipe.lock.toml"] and str(tmp_path).encode() in before[lock.name]


def test_nothing_with_a_secret_in_it_is_pushed(hub, result, tmp_path):
    """A file that a plugin has published, say: it is named, and nothing goes."""
    from attrs import evolve

    notes = tmp_path / "notes.md"
    notes.write_text("cloned from https://me:hunter22@host/x")
    with pytest.raises(LoraplugError, match="looks like a secret") as caught:
        HubExporter(repo="me/tiny").export(evolve(result, extras={"notes.md": notes}), tmp_path / "receipt.json")
    assert "notes.md" in str(caught.value) and "hunter22" not in str(caught.value)
    assert not hub.repositories and not list(tmp_path.glob("receipt*"))


def test_public_repository_is_left_alone(hub, result, tmp_path):
    """`private` is a promise: nothing goes to a repository that is public already."""
    hub.add("me/tiny", {})
    with pytest.raises(InputError, match="public already"):
        HubExporter(repo="me/tiny").export(result, tmp_path / "receipt.json")
    assert not pushed(hub) and not list(tmp_path.glob("receipt*"))


def test_wrong_token_and_refusal(hub, result, tmp_path, monkeypatch):
    """A token without rights is the user's matter, a refusal of the hub is not."""
    hub.faults = [Fault("/commit/", status=400)]
    with pytest.raises(LoraplugError, match="hub returned an error"):
        HubExporter(repo="me/tiny").export(result, tmp_path / "receipt.json")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match=r"token"):
        HubExporter(repo="me/tiny").export(result, tmp_path / "receipt.json")
    assert not list(tmp_path.glob("receipt*"))


def test_hub_that_is_not_there(result, tmp_path, monkeypatch):
    """No connection is said in one line."""
    point_at("http://127.0.0.1:9", tmp_path / "hub-cache", monkeypatch)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(LoraplugError, match="could not be reached"):
        HubExporter(repo="me/tiny").export(result, tmp_path / "receipt.json")


def test_what_is_pushed_can_be_trained_on(hub, result, tmp_path):
    """A merged model on a branch of its own comes back whole by its name, through the model loader."""
    from loraplug_hf.loader import TransformersModel

    HubExporter(repo="me/tiny", what="merged", branch="merged").export(result, tmp_path / "receipt.json")
    assert "model.safetensors" not in pushed(hub) and "model.safetensors" in pushed(hub, "merged")
    back = TransformersModel(id="me/tiny", revision="merged", dtype="float32").base(result.run)
    files = {path.name: path.read_bytes() for path in back.iterdir()}
    assert files == {name: data for name, data in pushed(hub, "merged").items() if name in files}
    assert {"model.safetensors", "config.json", "README.md"} <= files.keys() and "recipe.lock.toml" not in files


@pytest.mark.parametrize("repo", ["tiny", "a/b/c", "../x", "me/--help ", "-x/y", ""])
def test_repository_names(repo):
    """owner/name, nothing else."""
    with pytest.raises(ValueError, match="repo"):
        HubExporter(repo=repo)
