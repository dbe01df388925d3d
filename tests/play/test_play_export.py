"""`loraplug export`: a finished adapter made into something else, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command import Cli
from forked import Server


def digest(folder: Path) -> str:
    """Over names and bytes of all files."""
    text = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        text.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
    return text.hexdigest()


def test_a_merged_model_is_the_runs_own(
    loraplug: Cli, inside: Cli, adapter: Path, merged: Path, tmp_path: Path
) -> None:
    """The weights are those that the run itself exported; a second export replaces the first."""
    for export in (loraplug, inside):
        done = export("export", adapter, "--to", "merged")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "merged: outputs/merged/tiny\n"
        made = tmp_path / "outputs/merged/tiny"
        assert (made / "model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()
        assert sorted(path.name for path in made.parent.iterdir()) == ["tiny"]
    assert "train_loss" not in (made / "README.md").read_text()
    assert "last training loss" in (made / "README.md").read_text()


def test_settings_name_and_unfinished_place(inside: Cli, finished: Path, tmp_path: Path) -> None:
    """--set as in a recipe, paths from the working folder; the run's own adapter folder goes by the run's name."""
    run = finished / "outputs/runs/tiny/adapter"
    done = inside("export", run, "--to", "merged", "--set", "out=there", "--set", "verify=false")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there/tiny/config.json").is_file()
    assert "compared with base" not in done.stderr
    assert inside("export", run, "--to", "merged", "--set", "out=there", "--name", "other").returncode == 0
    assert (tmp_path / "there/other/config.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{adapter}", "--to", "merge"], "did you mean merged?"),
        (["{adapter}", "--to", "merged", "--set", "ontoo=original"], "did you mean onto?"),
        (["{adapter}", "--to", "merged", "--set", "onto"], "not KEY=VALUE"),
        (["{adapter}", "--to", "hub"], "exporter.repo: missing key"),
        (["{adapter}", "--to", "merged", "--name", "../up"], "cannot be a file name"),
        (["{adapter}", "--to", "merged", "--base", "./gone"], "its base model was not found"),
        (["{merged}", "--to", "merged"], "has no adapter_config.json"),
        (["nowhere", "--to", "merged"], "no such folder"),
        (["{adapter}", "--to", "adapter", "--set", "out={adapters}"], "would be overwritten by its own export"),
        (["{adapter}", "--to", "merged", "--set", "out=."], "was not made by an export"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_input(inside: Cli, adapter: Path, merged: Path, tmp_path: Path, words: list[str], said: str) -> None:
    """One block, exit code 2, nothing made and nothing replaced."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("mine")
    before = digest(adapter)
    done = inside("export", *(word.format(adapter=adapter, merged=merged, adapters=adapter.parent) for word in words))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert digest(adapter) == before
    assert (tmp_path / "tiny" / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "outputs").exists()


def test_a_disk_that_fills_leaves_the_old_export_whole(inside: Cli, adapter: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the system refuses to write in the same way."""
    assert inside("export", adapter, "--to", "merged").returncode == 0
    made = tmp_path / "outputs/merged/tiny"
    before = digest(made)
    done = subprocess.run(
        [sys.executable, "-m", "loraplug", "export", str(adapter), "--to", "merged"],
        cwd=tmp_path,
        env=os.environ | {"LORAPLUG_CACHE": str(tmp_path / "cache")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert digest(made) == before
    assert sorted(path.name for path in made.parent.iterdir()) == ["tiny"]


def test_a_killed_export_leaves_the_old_one_whole(inside: Cli, server: Server, adapter: Path, tmp_path: Path) -> None:
    """Killed with the new one begun; the next export clears up and replaces it."""
    assert inside("export", adapter, "--to", "merged").returncode == 0
    made = tmp_path / "outputs/merged/tiny"
    before = digest(made)
    fresh = made.with_name(".tiny.new")
    export = server.start(tmp_path, "export", adapter, "--to", "merged")
    while not fresh.exists() and export.poll() is None:
        time.sleep(0.001)
    export.kill()
    assert fresh.exists(), "it was through before it could be killed"
    assert digest(made) == before
    assert inside("export", adapter, "--to", "merged").returncode == 0
    assert sorted(path.name for path in made.parent.iterdir()) == ["tiny"]
