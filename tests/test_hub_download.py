"""Downloads with the real client, from a hub on the loopback: what is fetched, and what each refusal says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import Cli
from loopback_hub import TOKEN, Fault, Hub, Repository, point_at, serving, wait_for
from loraplug import InputError, LoraplugError, Run
from loraplug_hf.hub import downloaded
from loraplug_hf.loader import TransformersModel

NAME = "someone/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        point_at(hub.address, tmp_path / "hub-cache", monkeypatch)
        yield hub


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("x", outputs=tmp_path / "outputs", cache=tmp_path / "cache")


@pytest.fixture(scope="session")
def sharded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in several shards, with its tokenizer."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("sharded") / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(folder, max_shard_size="200KB")
    assert len([*folder.glob("model-*.safetensors")]) > 2
    return folder


@pytest.fixture
def tiny(hub: Hub, sharded: Path) -> Repository:
    return hub.add(NAME, sharded)


def refused(run: Run, name: str = NAME, revision: str | None = None) -> str:
    """What is said of a download that fails: one block, where and what to do."""
    with pytest.raises(LoraplugError) as caught:
        downloaded(name, revision, run)
    text = str(caught.value)
    assert caught.value.todo and text.count("\n") == 1 and "Traceback" not in text, text
    assert text.startswith(f"model.id {name}")
    return text


def test_one_set_of_weights_is_downloaded(hub: Hub, tiny: Repository, run: Run) -> None:
    """The shards that the index names; no other set, pickles, ONNX, nor the files of subfolders."""
    import torch

    other = b"another set of the same weights"
    beside = ["consolidated.safetensors", "original/consolidated.00.pth", "original/params.json", "onnx/model.onnx"]
    beside += ["model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors", "pytorch_model.bin", "tf_model.h5"]
    beside += ["model.safetensors.index.fp16.json", "pytorch_model.bin.index.json", "model.gguf", "code.py", "x.png"]
    tiny.commit(dict.fromkeys(beside, other))
    tiny.commit({"additional_chat_templates/rag.jinja": b"x", "README.md": b"---\nlicense: mit\n---\n"})
    folder = downloaded(NAME, None, run)
    wanted = {name for name in tiny.files() if name not in beside}
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == wanted
    assert "additional_chat_templates/rag.jinja" in wanted and hub.downloads() == sorted(wanted)
    loader = TransformersModel(id=NAME, dtype="float32")
    assert next(loader.load_model(run).parameters()).dtype == torch.float32
    assert loader.load_tokenizer(run).chat_template


def test_a_single_file_wins_over_an_index(hub: Hub, tiny: Repository, tiny_model: Path, run: Run) -> None:
    """As in transformers, whatever else lies in the cache; and the hash of the base is that of what is loaded."""
    from loraplug.files import hash_weights

    single = (tiny_model / "model.safetensors").read_bytes()
    tiny.commit({"model.safetensors": single})
    folder = downloaded(NAME, None, run)
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
    before = hash_weights(folder)
    (folder / "model-00001-of-00009.safetensors").write_bytes(b"another program has fetched all")
    assert hash_weights(folder) == before


def test_code_comes_only_where_it_is_trusted(hub: Hub, tiny: Repository, run: Run) -> None:
    """`trust_remote_code` brings Python files; without it none lie in the cache."""
    tiny.commit({"code.py": b"x = 1\n"})
    assert not (downloaded(NAME, None, run) / "code.py").exists()
    assert (downloaded(NAME, None, run, code=True) / "code.py").read_bytes() == b"x = 1\n"


def test_what_is_there_is_not_asked_for_again(hub: Hub, tiny: Repository, run: Run) -> None:
    """A pinned commit asks nothing at all, a branch asks once where it points; without network both are found."""
    from huggingface_hub import constants

    commit = tiny.refs["main"]
    folder = downloaded(NAME, None, run)
    hub.asked.clear()
    assert downloaded(NAME, commit, run) == folder and not hub.asked
    assert downloaded(NAME, None, run) == folder and len(hub.asked) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert downloaded(NAME, None, run) == downloaded(NAME, commit, run) == folder
    shutil.rmtree(folder.parent.parent / "trees")  # as older versions of the client leave a cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert downloaded(NAME, None, run) == folder


def test_a_pinned_revision_stays(hub: Hub, tiny: Repository, run: Run) -> None:
    """Tag and commit give what they name, though the branch has moved on; an unknown one is told."""
    first = tiny.refs["main"]
    tiny.refs["v1"] = first
    second = tiny.commit({"README.md": b"new"})
    for revision, commit in (("v1", first), (first, first), (None, second), ("main", second)):
        assert downloaded(NAME, revision, run).name == commit
    assert 'has no revision "v9"' in refused(run, revision="v9")
    assert "has no revision" in refused(run, revision="0" * 40)


def test_gated_private_and_missing(hub: Hub, tiny: Repository, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says what it can be and what to do, with a token and without."""
    tiny.gated = True
    text = refused(run)
    assert "is gated" in text and f"accept the terms on {hub.address}/{NAME} and set HF_TOKEN" in text
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "with the account that HF_TOKEN belongs to" in refused(run)
    tiny.gated, tiny.private = False, True
    assert "does not exist on the hub, or is private (404)" in refused(run, "someone/other")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept this token (401)" in refused(run)
    monkeypatch.delenv("HF_TOKEN")
    text = refused(run)
    assert "does not exist on the hub, or is private (401)" in text and "set HF_TOKEN" in text
    assert "is neither a hub id" in refused(run, "a/b/c") and "repo_type" not in refused(run, "a/b/c")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert downloaded(NAME, None, run).is_dir()


def test_a_hub_that_refuses_for_now(hub: Hub, tiny: Repository, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """429 says how long to wait, 403 and 503 what the hub says; what was downloaded before is taken, with a warning."""
    limit = {"RateLimit": '"api";r=0;t=55'}
    for status, headers, said in (
        (429, limit, "wait 55 seconds, then run again; with HF_TOKEN the hub allows more"),
        (429, {"Retry-After": "7"}, "wait 7 seconds"),
        (429, {}, "wait some minutes"),
        (403, {}, "no read access to it (403: not now)"),
        (503, {}, "try again later"),
    ):
        hub.faults = [Fault("/api/models", status=status, headers=headers)]
        assert said in refused(run)
    folder = downloaded(NAME, None, run)
    hub.faults = [Fault("/api/models", status=429, headers=limit)]
    warned: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "warn", lambda self, text: warned.append(text))
        assert downloaded(NAME, None, run) == folder
    assert warned == [f"model: the hub answers 429 for {NAME}; using the cached commit "
                      f"{folder.name[:12]}"]  # fmt: skip


def test_no_network(hub: Hub, tiny: Repository, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens there; or the environment forbids to ask."""
    from huggingface_hub import constants

    point_at("http://127.0.0.1:9", Path(constants.HF_HUB_CACHE), monkeypatch)
    text = refused(run)
    assert "the hub could not be reached" in text and "HF_ENDPOINT (http://127.0.0.1:9)" in text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(run)


def test_a_connection_that_breaks_is_taken_up_again(hub: Hub, tiny: Repository, run: Run) -> None:
    """Cut in the middle of a shard: the rest is asked for as a range, and the file is whole."""
    name = next(name for name in tiny.files() if name.startswith("model-00002"))
    hub.faults = [Fault(name, cut=1000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)  # what is written at once; 10 MB else
        folder = downloaded(NAME, None, run)
    assert (folder / name).read_bytes() == tiny.files()[name]
    assert [asked[2] for asked in hub.asked if name in asked[1] and asked[0] == "GET"] == ["", "bytes=1000-"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="wants SIGKILL")
def test_a_killed_download_goes_on_with_the_next_file(hub: Hub, tiny: Repository, run: Run, tmp_path: Path) -> None:
    """Killed in a shard, a process that was told of the hub by HF_ENDPOINT: the next one asks for what is not whole."""
    from huggingface_hub import constants

    last = max(name for name in tiny.files() if name.startswith("model-0"))
    hub.faults = [Fault(last, cut=100, stall=threading.Event())]
    code = (
        "import sys; from pathlib import Path; from loraplug import Run; from loraplug_hf.hub import downloaded\n"
        "downloaded(sys.argv[1], None, Run('x', outputs=Path('o'), cache=Path('c')))"
    )
    env = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "hub-cache")}
    with subprocess.Popen(
        [sys.executable, "-c", code, NAME], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL
    ) as child:
        cache, others = Path(constants.HF_HUB_CACHE), sum("model-0" in name for name in tiny.files()) - 1
        wait_for(lambda: len([*cache.glob("models--*/snapshots/*/model-*.safetensors")]) == others)
        child.send_signal(signal.SIGKILL)
    hub.asked.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "is not completely in the cache" in refused(run)
    downloaded(NAME, None, run)
    assert last in hub.downloads() and not any(name != last for name in hub.downloads() if "model-0" in name)


def test_a_repository_with_incomplete_files(hub: Hub, tiny: Repository, run: Run) -> None:
    """Told by the listing before any weights are fetched; a file that is cut short, by its head."""
    names = sorted(name for name in tiny.files() if name.startswith("model-0"))
    whole = dict(tiny.files())
    cases: list[tuple[dict[str, bytes | None], str]] = [
        ({names[1]: None}, f"is incomplete: {names[1]} is missing, of {len(names)} weight files"),
        ({"config.json": None}, "has no config.json"),
        ({"adapter_config.json": b"{}"}, "is an adapter"),
        ({"model.safetensors.index.json": b"{"}, "model.safetensors.index.json: not JSON"),
        ({"model.safetensors.index.json": b"{}"}, "not an index of weights"),
        ({"model.safetensors.index.json": b'{"weight_map": {"a": "../x"}}'}, "outside its folder"),
        ({"model.safetensors.index.json": None}, f"no index of shards, only {names[0]}"),
        (dict.fromkeys([*names, "model.safetensors.index.json"]) | {"pytorch_model.bin": b"x"}, "pickled ones"),
        (dict.fromkeys([*names, "model.safetensors.index.json"]), "has no weights"),
        (dict.fromkeys(whole) | {"m.gguf": b"x"}, "has GGUF files"),
    ]
    for at, (changes, said) in enumerate(cases):
        files = {name: data for name, data in {**whole, **changes}.items() if data is not None}
        hub.asked.clear()
        hub.add(f"someone/case{at}", files)
        assert said in refused(run, f"someone/case{at}")
        assert not any(name.endswith((".safetensors", ".bin")) for name in hub.downloads())
    short = {names[0]: whole[names[0]][:-10]}
    hub.add("someone/short", {**whole, **short})
    assert f"someone/short: {names[0]}: is truncated" in refused(run, "someone/short")


def test_a_model_that_the_disk_cannot_hold(hub: Hub, tiny: Repository, run: Run) -> None:
    """Refused before its weights are asked for."""
    last = max(name for name in tiny.files() if name.startswith("model-0"))
    hub.sizes[last] = 10**17
    with pytest.raises(InputError, match=r"needs 100,000,000\.0 GB, and the disk of the cache has"):
        downloaded(NAME, None, run)
    assert not any("safetensors" in name and not name.endswith(".json") for name in hub.downloads())


def test_a_run_takes_its_base_from_the_hub_and_gives_its_adapter_back(
    hub: Hub, tiny: Repository, recipe: Path, loraplug: Cli
) -> None:
    """By the command line, told of the hub by HF_ENDPOINT: an unknown base is one block; a known one is trained on."""
    from huggingface_hub import constants

    table = recipe.read_text().partition("[[exporter]]")[0]
    pieces = [line for line in table.splitlines() if not line.startswith("id = ")]
    pieces.insert(pieces.index("[model]") + 1, f'id = "{NAME}"\nrevision = "{tiny.refs["main"]}"')
    recipe.write_text("\n".join(pieces) + '\n[[exporter]]\nuse = "hub"\nrepo = "me/tiny"\n')
    env = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": constants.HF_HUB_CACHE, "HF_TOKEN": TOKEN}
    found = loraplug("run", recipe, "--set", "model.id=someone/other", env=env)
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert "model.id: someone/other: does not exist on the hub" in found.stderr and "check the spelling" in found.stderr
    assert "nothing has been loaded yet" in found.stderr
    found = loraplug("run", recipe, "--set", "trainer.max_steps=1", env=env)
    assert found.returncode == 0, found.stderr
    pushed = hub.repositories["me/tiny"].files()
    assert json.loads(pushed["adapter_config.json"])["base_model_name_or_path"] == NAME
    assert f'revision = "{tiny.refs["main"]}"'.encode() in pushed["recipe.lock.toml"]
