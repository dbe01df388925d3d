"""Adapters that somebody else made: their locks, tokenizers and links run nothing and lead nowhere."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command import Cli
from loraplug import InputError, Run, load_registry, open_model
from loraplug.pipeline.reference import lock_beside

EVIL = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
class EvilConfig(PretrainedConfig):
    model_type = "evil"
class EvilModel(PreTrainedModel):
    config_class = EvilConfig
class EvilTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def registry() -> Any:
    return load_registry()


@pytest.fixture
def foreign(adapter: Path, tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """The finished adapter as somebody else's: with a lock whose tables `model`, `quantizer` … are the given ones."""
    import tomli_w

    def make(tables: dict[str, Any]) -> Path:
        folder = tmp_path / "theirs"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(adapter, folder)
        lock = tomllib.loads((folder / "recipe.lock.toml").read_text())
        for name, table in tables.items():
            lock[name] = {**lock[name], **table} if isinstance(lock.get(name), dict) else table
        (folder / "recipe.lock.toml").write_text(tomli_w.dumps(lock))
        return folder

    return make


def test_a_run_of_ones_own_opens_without_a_word(adapter: Path, finished: Path, tmp_path: Path, registry: Any) -> None:
    """Exported, in the run's folder, and moved away: with a base that lies in a folder, which others may not name."""
    base = tomllib.loads((adapter / "recipe.lock.toml").read_text())["model"]["id"]
    assert Path(finished, base).is_dir()
    moved = shutil.copytree(adapter, tmp_path / "moved")
    for folder in (adapter, finished / "outputs/runs/tiny/adapter", moved):
        opened = open_model(folder, registry)
        assert opened.own
        assert Path(opened.loader.base(Run("x"))).is_dir()
    merged = lock_beside(finished / "outputs/merged/tiny")
    assert merged is not None and merged.own, "the merged model's lock has more in it, and is one's own as well"


def test_a_lock_that_was_touched_is_not_ones_own(adapter: Path, tmp_path: Path, registry: Any) -> None:
    """A space is enough; the record of another user or machine does not hold either."""
    moved = shutil.copytree(adapter, tmp_path / "moved")
    with (moved / "recipe.lock.toml").open("a") as lock:
        lock.write(" ")
    with pytest.raises(InputError, match=r"model\.id.*is a path outside the model's folder"):
        open_model(moved, registry)
    opened = open_model(moved, registry, trust=True)
    assert not opened.own and opened.trusted
    with pytest.MonkeyPatch.context() as here:
        here.setenv("LORAPLUG_STATE", str(tmp_path / "another"))
        with pytest.raises(InputError, match="--trust"):
            open_model(adapter, registry)


ASKED = {
    "code": ({"model": {"id": "a/b", "trust_remote_code": True}}, "model.trust_remote_code: true runs Python code"),
    "code as a word": ({"model": {"id": "a/b", "trust_remote_code": "yes"}}, "model.trust_remote_code: 'yes'"),
    "absolute": ({"model": {"id": "/etc"}}, "model.id: '/etc' is a path outside"),
    "home": ({"model": {"id": "~/models/x"}}, "model.id: '~/models/x' is a path outside"),
    "dots": ({"model": {"id": "./base/../../x"}}, "model.id: './base/../../x' is a path outside"),
    "a link": ({"model": {"id": "./link"}}, "model.id: './link' is a path outside"),
    "network": ({"model": {"id": "//host/share"}}, "model.id: '//host/share' is a network path"),
    "windows network": ({"model": {"id": "\\\\host\\share"}}, "is a network path"),
    "an address": ({"model": {"id": "https://x.example/m"}}, "is neither a name on the hub nor a folder"),
    "no id": ({"model": {"id": 3}}, "model.id: 3 is not a model name"),
    "revision": ({"model": {"id": "a/b", "revision": "../../x"}}, "model.revision: '../../x' is not a commit"),
    "kernels": ({"model": {"id": "a/b", "attention": "flash_attention_2"}}, "model.attention"),
    "loader": ({"model": {"use": "evil", "id": "a/b"}}, "model.use: 'evil' is not the loader that comes with"),
    "unknown": ({"model": {"id": "a/b", "hook": "x"}}, "model.hook: 'x'"),
    "quantizer": (
        {"model": {"id": "a/b"}, "quantizer": {"use": "bitsandbytes", "quant_type": ["x"]}},
        "quantizer.quant_type",
    ),
    "extends": ({"model": {"id": "a/b"}, "extends": "../../other.toml"}, "extends: reads other files"),
}


@pytest.mark.parametrize("kind", ASKED)
def test_what_a_foreign_lock_asks_for_is_named_and_refused(
    kind: str, foreign: Callable[[dict[str, Any]], Path], registry: Any
) -> None:
    """One block with the key, what it asks for, and the flag."""
    tables, words = ASKED[kind]
    folder = foreign(tables)
    (folder / "link").symlink_to("/etc")
    with pytest.raises(InputError) as caught:
        open_model(folder, registry)
    told = str(caught.value)
    assert words in told
    assert "this lock was not written by a run of yours" in told and "open it with --trust" in told


def test_all_that_it_asks_for_is_told_at_once(foreign: Callable[[dict[str, Any]], Path], registry: Any) -> None:
    folder = foreign({"model": {"id": "/etc", "trust_remote_code": True, "revision": "a b"}, "extends": "x"})
    with pytest.raises(InputError) as caught:
        open_model(folder, registry)
    assert str(caught.value).count("\n  ") == 5


def test_what_is_plain_is_taken(foreign: Callable[[dict[str, Any]], Path], tiny_model: Path, registry: Any) -> None:
    """A name on the hub with its form; a base inside the folder; plugins that it would disable stay."""
    form = {"revision": "main", "dtype": "bfloat16", "attention": "eager", "chat_template": "/etc/passwd"}
    quantizer = {"use": "bitsandbytes", "bits": 8}
    opened = open_model(
        foreign({"model": {"id": "a/b", **form}, "quantizer": quantizer, "plugins": {"disable": ["hf"]}}), registry
    )
    loader: Any = opened.loader
    assert (loader.id, loader.revision, loader.dtype, loader.attention) == ("a/b", "main", "bfloat16", "eager")
    assert loader.chat_template is None and not loader.trust_remote_code, "the adapter's tokenizer has its template"
    assert opened.quantizer is not None and opened.quantizer.bits == 8  # type: ignore[attr-defined]

    folder = foreign({"model": {"id": "./base"}, "lock": {"folder": "/"}})
    shutil.copytree(tiny_model, folder / "base")
    opened = open_model(folder, registry)
    assert opened.loader.base(Run("x")) == folder / "base"
    assert open_model(foreign({}), registry, str(tiny_model)).adapter is not None, "--base needs no lock"


def evil_base(folder: Path, mark: Path) -> None:
    """A model folder whose code writes `mark`."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({"x": torch.zeros(2, 4)}, folder / "model.safetensors")
    auto = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))


def test_code_of_a_model_runs_only_with_trust(
    foreign: Callable[[dict[str, Any]], Path], tmp_path: Path, inside: Cli
) -> None:
    """Through every command that opens one; with --trust it does run, so the test would see it."""
    mark = tmp_path / "ran"
    folder = foreign({"model": {"id": "./base"}, "lock": {}})
    (folder / "recipe.lock.toml").write_text('[model]\nuse = "transformers"\nid = "./base"\n')
    evil_base(folder / "base", mark)
    env = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    for words in (
        ["chat", folder, "--prompt", "hi"],
        ["chat", folder / "base", "--prompt", "hi"],
        ["web", folder / "base", "--port", "7999"],
        ["export", folder, "--to", "merged"],
        ["eval", folder, "--tasks", tmp_path, "--repo", tmp_path],
    ):
        done = inside(*words, env=env)
        assert done.returncode == 2, (words, done.stderr)
        assert "Traceback" not in done.stderr and "[y/N]" not in done.stderr + done.stdout
        assert not mark.exists(), words
    told = inside("chat", folder / "base", "--prompt", "hi", env=env).stderr
    assert "needs Python code from its repository" in told and "--trust" in told
    inside("chat", folder, "--prompt", "hi", "--trust", env=env)
    assert mark.exists()


def test_code_of_a_tokenizer_beside_an_adapter_is_refused(
    adapter: Path, tiny_model: Path, tmp_path: Path, inside: Cli
) -> None:
    """The lock is one's own, copied; the tokenizer is not. From one's own run it is read without its code."""
    folder = shutil.copytree(adapter, tmp_path / "theirs")
    config = folder / "tokenizer_config.json"
    table = json.loads(config.read_text())
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    auto = {"auto_map": {"AutoTokenizer": [None, "evil.EvilTokenizer"]}, "tokenizer_class": "EvilTokenizer"}
    config.write_text(json.dumps({**table, **auto}))
    env = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    own = inside("chat", folder, "--prompt", "hi", "--max-tokens", "2", env=env)
    assert own.returncode == 2 and not mark.exists(), own.stderr
    (folder / "recipe.lock.toml").unlink()
    given = ["chat", folder, "--base", tiny_model, "--prompt", "hi", "--max-tokens", "2"]
    done = inside(*given, env=env)
    assert done.returncode == 2 and not mark.exists()
    assert "needs its own Python code" in done.stderr and "--trust" in done.stderr
    inside(*given, "--trust", env=env)
    assert mark.exists()


def test_an_export_holds_no_file_from_elsewhere(adapter: Path, tmp_path: Path, tiny_model: Path, inside: Cli) -> None:
    """Links in an adapter, and a list of published files beside it, that name a file of this machine."""
    secret = tmp_path / "diary.txt"
    secret.write_text("dear diary")
    run = tmp_path / "theirs"
    folder = shutil.copytree(adapter, run / "adapter")
    (folder / "recipe.lock.toml").rename(run / "recipe.lock.toml")
    (run / "inside.txt").write_text("fine")
    listed = {"notes.txt": str(secret), "more.txt": "../diary.txt", "inside.txt": "inside.txt"}
    (run / "published.json").write_text(json.dumps(listed))
    with (run / "recipe.lock.toml").open("a") as lock:
        lock.write(" ")
    words = ["export", folder, "--to", "adapter", "--base", tiny_model]
    done = inside(*words)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "outputs/adapters/theirs"
    assert (made / "inside.txt").is_file()
    assert all("diary" not in path.read_text(errors="replace") for path in made.iterdir() if path.suffix == ".txt")
    assert done.stderr.count("outside the folder: left out") == 2, "and that is told"
    (folder / "notes.txt").symlink_to(secret)
    done = inside(*words)
    assert done.returncode == 2 and "is a link to a file outside the folder" in done.stderr
    (folder / "notes.txt").unlink()
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "LICENSE").symlink_to(secret)
    done = inside(*words[:-1], base)
    assert done.returncode == 2 and "base/LICENSE: is a link to a file outside the folder" in done.stderr


def test_ones_own_lock_in_a_foreign_folder_vouches_for_nothing_else(
    adapter: Path, tmp_path: Path, inside: Cli, registry: Any
) -> None:
    """A link to it makes the base one's own. The list beside it does not hold, nor what it names as the next lock."""
    run = tmp_path / "theirs"
    folder = shutil.copytree(adapter, run / "adapter")
    (folder / "recipe.lock.toml").unlink()
    (run / "recipe.lock.toml").symlink_to(adapter / "recipe.lock.toml")
    (tmp_path / "diary.txt").write_text("dear diary")
    (run / "evil.toml").write_text('[model]\nuse = "transformers"\nid = "/etc"\ntrust_remote_code = true\n')
    listed = {"recipe.lock.toml": "evil.toml", "notes.txt": "../diary.txt"}
    (run / "published.json").write_text(json.dumps(listed))
    assert open_model(folder, registry).own
    done = inside("export", folder, "--to", "adapter")
    assert done.returncode == 0, done.stderr
    made = tmp_path / "outputs/adapters/theirs"
    assert not (made / "notes.txt").exists()
    lock = lock_beside(made)
    assert lock is not None and not lock.own
    with pytest.raises(InputError, match="trust_remote_code"):
        open_model(made, registry)


def test_a_config_that_names_a_base_on_the_network(adapter: Path, tmp_path: Path, registry: Any) -> None:
    folder = shutil.copytree(adapter, tmp_path / "theirs")
    (folder / "recipe.lock.toml").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    for place in (r"\\host\share\base", "//host/share/base"):
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": place}))
        with pytest.raises(InputError, match="its base is a network path"):
            open_model(folder, registry)


def test_what_a_stranger_wrote_is_no_html_in_the_page() -> None:
    """Errors name keys and values of locks, and gradio shows errors as HTML."""
    gradio = pytest.importorskip("gradio")
    from loraplug_serve.page import _as_gradio_errors

    with pytest.raises(gradio.Error) as caught, _as_gradio_errors():
        raise InputError("model.use: '<img src=x onerror=alert(1)>\x1b[31m'", where="lock")
    assert caught.value.message == "lock: model.use: '&lt;img src=x onerror=alert(1)&gt;\\u001b[31m'"


def test_eval_takes_of_a_foreign_lock_how_it_asks_and_no_path(
    foreign: Callable[[dict[str, Any]], Path], tmp_path: Path, inside: Cli
) -> None:
    """Without --repo there is no code: the lock's own is named, with the flag, and not read."""
    dataset = {"use": "swe-bugs", "path": str(tmp_path / "code"), "test_args": ["-p", "evil"], "edit": "lines"}
    folder = foreign({"dataset": dataset})
    patch = "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a = 1\n+a = 2\n"
    bug = {"patch": patch, "problem_statement": "x", "target_tests": ["t"]}
    task = {"task_id": 1, "source": {"repo": "a/b", "base_commit": "0" * 40}, "bug": bug}
    (tmp_path / "task_1.json").write_text(json.dumps(task))
    done = inside("eval", folder, "--tasks", tmp_path / "task_1.json")
    assert done.returncode == 2, done.stderr
    assert "dataset.path, dataset.test_args" in done.stderr and "--trust" in done.stderr


def test_a_record_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """The run goes on."""
    from loraplug.recipe.own_locks import is_own, remember

    run = Run("x", outputs=tmp_path)
    with pytest.MonkeyPatch.context() as here:
        (tmp_path / "file").touch()
        here.setenv("LORAPLUG_STATE", str(tmp_path / "file"))
        remember(b"lock", run)
        assert not is_own(b"lock")
    assert "cannot record that this run is yours" in run.reporter.warnings[0]
