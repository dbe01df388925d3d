"""`loraplug plugins check`: what is built in conforms, and what is wrong with a package is told in one go."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from command import ROOT, Cli

PLUGIN = """
import numpy
import click
import loraplug

@click.command()
@click.option("--loud", is_flag=True)
def shout(loud):
    pass

def observer(event):
    event.data["loss"]

@loraplug.hookimpl
def loraplug_commands():
    return [shout]

@loraplug.hookimpl
def loraplug_events():
    return [observer]

def talkative(run):
    yield loraplug.Finding("noise", "two\\nlines")

@loraplug.hookimpl
def loraplug_diagnostics():
    return [talkative]
"""


def install(folder: Path, name: str, code: str) -> dict[str, str]:
    """A distribution as pip leaves it; gives the environment in which it is installed."""
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    info = folder / f"{name}-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(f"[loraplug]\n{name} = {name}\n")
    return {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")])
    }


@pytest.mark.slow
def test_everything_built_in_conforms(cold: Cli, tiny_model: Path, tmp_path: Path) -> None:
    """Every component that needs no network, on real data and a real (tiny) model."""
    import pyarrow as pa
    from datasets import Dataset

    rows = [{"prompt": f"{n}", "completion": f"{n + 1}"} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text("prompt,completion\n1,2\n2,3\n")
    rows_of_arrow = pa.Table.from_pylist(rows)
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, rows_of_arrow.schema) as writer:
        writer.write_table(rows_of_arrow)
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    tasks = ROOT / "data" / "sample_tasks"
    settings = ["jsonl.path=rows.jsonl", "json.path=rows.json", "parquet.path=rows.parquet", "disk.path=saved"]
    settings += [f"transformers.id={tiny_model}", "sft.max_steps=2", f"swe-synth.tasks={tasks}", f"swe.tasks={tasks}"]
    settings += ["swe.mode=simple", "csv.path=rows.csv", "arrow.path=rows.arrow"]
    words = [word for setting in settings for word in ("--set", setting)]
    done = cold("plugins", "check", "loraplug", "--json", *words)
    findings = json.loads(done.stdout)
    assert not [item for item in findings if item["status"] == "failed"]
    assert done.returncode == 0
    idle = {item["subject"] for item in findings if item["status"] == "not run"}
    # two need the network, two a repository with tests, the rest columns, other rows or what only users have
    extras = {"quantizer torchao"} if find_spec("torchao") is None else set()
    assert idle == extras | {
        "dataset hub", "exporter hub", "dataset swe-bugs", "dataset swe-history", "dataset sql", "dataset traces",
        "transform decontaminate", "transform rename", "transform map", "transform select", "transform sample",
        "transform template", "adapter peft",
    }  # fmt: skip
    assert len({item["subject"] for item in findings if item["check"] == "every option is documented"}) >= 17


def test_a_faulty_package_is_told_all_its_faults(cold: Cli, tmp_path: Path) -> None:
    """A heavy import, help that is missing, an observer and a diagnostic that break; exit code 1."""
    done = cold("plugins", "check", "rude", env=install(tmp_path, "rude", PLUGIN))
    assert done.returncode == 1, done.stderr
    assert "imports numpy: import them inside methods" in done.stdout
    assert "has no help" in done.stdout
    assert "KeyError: 'loss'" in done.stdout
    assert "'two\\nlines' has more than one line" in done.stdout
    assert "urls.Issues" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("4 ok, 4 failed, ")


def test_a_package_whose_hooks_are_not_marked_is_found(cold: Cli, tmp_path: Path) -> None:
    """pluggy passes over a function without @hookimpl in silence."""
    env = install(tmp_path, "silent", "def loraplug_commands():\n    return []\n")
    done = cold("plugins", "check", "silent", env=env)
    assert done.returncode == 1
    assert "provides nothing: are its hooks decorated with @loraplug.hookimpl?" in done.stdout


def test_a_broken_package_is_told_why(cold: Cli, tmp_path: Path) -> None:
    """What fails at import fails the check, with the reason."""
    done = cold("plugins", "check", "broken", env=install(tmp_path, "broken", "import not_there"))
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'not_there'" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dat"], "did you mean data"),
        (["loraplug-datum"], "install it first"),
        (["data", "--set", "jsnl.path=x"], "names no component of this package"),
        (["loraplug", "--set", "hub.id=x"], "names more than one component"),
        (["data", "--set", "jsonl.pth=x"], "did you mean path?"),
    ],
    ids=str,
)
def test_a_word_that_is_wrong_is_told(cold: Cli, words: list[str], said: str) -> None:
    """Packages and options that do not exist are the user's mistake: exit code 2."""
    done = cold("plugins", "check", *words)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
