"""`loraplug doctor`: what it tells of a machine, and that nothing a plugin does stops it. And shell completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from command import Cli
from loraplug import Finding, hookimpl
from loraplug.testing import make_registry, tiny_run
from loraplug_tools.doctor import hardware, software
from loraplug_tools.doctor.command import _diagnosed, _plugins


def test_every_part_of_the_machine_is_told_of(loraplug: Cli) -> None:
    """As JSON, one object a finding; nothing on a machine that runs these tests stands in the way."""
    done = loraplug("doctor", "--json")
    findings = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    subjects = {"python", "processor", "memory", "disk", "gpu", "git", "libraries", "hub", "sandbox", "plugins"}
    assert subjects <= {finding["subject"] for finding in findings}
    assert all(finding.keys() == {"subject", "text", "severity", "todo"} for finding in findings)
    assert any("torch 2." in finding["text"] for finding in findings)


def test_a_recipe_that_cannot_run_ends_with_2_and_what_to_change(loraplug: Cli, recipe: Path) -> None:
    """Every problem of the recipe is a finding of its own."""
    assert loraplug("doctor", recipe).returncode == 0
    recipe.write_text(recipe.read_text().replace("[trainer]", "[trainer]\nepoch = 1\nbatch_size = '2'"))
    done = loraplug("doctor", recipe)
    assert done.returncode == 2
    assert "did you mean epochs" in done.stdout
    assert "trainer.batch_size: expected int" in done.stdout


def test_a_token_is_told_of_and_never_shown(loraplug: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's line says where the token is from."""
    token = "hf_" + "Qw3rTyUiOpAsDfGhJkLzXcVbNmQw3rTyUi"
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    done = loraplug("doctor")
    assert "with HF_TOKEN" in done.stdout
    assert token not in done.stdout + done.stderr


def test_a_machine_without_git_is_told_what_that_costs(loraplug: Cli, tmp_path: Path) -> None:
    """The programs are looked for on PATH, and a missing one is a warning, not the end."""
    environment = os.environ | {"PATH": str(tmp_path)}
    code = "from loraplug.cli import main; main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("git")]
    assert "warning" in line
    assert "swe-bugs, eval" in done.stdout


def test_a_folder_that_cannot_be_written_to_stands_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the system is only asked about it."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    findings = list(hardware.disk(tiny_run(tmp_path / "not" / "yet")))
    assert {finding.severity for finding in findings} == {"error"}
    assert all(finding.todo for finding in findings)


def test_a_card_that_torch_was_not_built_for_stands_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nvidia-smi says is shown; here a script says it."""
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034 MiB, 570.86.10'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(hardware, "version", lambda name: "2.13.0+cpu")
    card, build = hardware.gpu(tiny_run(tmp_path))
    assert card.text == "NVIDIA L4, 23034 MiB, driver 570.86.10"
    assert build.severity == "error"
    monkeypatch.setattr(hardware, "version", lambda name: "2.13.0")
    assert [finding.severity for finding in hardware.gpu(tiny_run(tmp_path))] == ["ok"]


def test_versions_that_do_not_fit_are_named_with_the_command_that_mends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held to what the installed metadata requires."""
    assert requires("loraplug")
    monkeypatch.setattr(software, "version", lambda name: "0.0.1" if name == "peft" else "999")
    wrong = [finding for finding in software.dependencies(SimpleNamespace()) if finding.severity == "error"]
    (peft,) = [finding for finding in wrong if finding.text.startswith("peft")]
    assert "peft 0.0.1 is installed" in peft.text
    assert peft.todo.startswith('pip install "peft')


def test_the_libraries_that_messages_ask_for_are_those_of_the_extras() -> None:
    """In the same versions, and by name: no package index has loraplug with its extras."""
    root = Path(software.__file__).parents[3]
    required = {f"{one.name}{one.specifier}" for one in map(Requirement, requires("loraplug") or ())}
    sources = [path.read_text("utf-8") for part in ("loraplug", "plugins") for path in (root / part).rglob("*.py")]
    named = {
        requirement
        for command in re.findall(r"pip install ((?:\"[\w.>=-]+\" ?)+)", "\n".join(sources))
        for requirement in re.findall(r'"(.+?)"', command)
    }
    assert {"gradio>=6.31", "tree-sitter>=0.25"} <= named
    assert named <= required
    assert not [text for text in sources if re.search(r"pip install (--\S+ )*\"?loraplug", text)]


def test_a_check_that_fails_is_a_finding_and_the_others_are_asked() -> None:
    """It names the plugin and where to report it."""

    def breaks(run: object) -> list[Finding]:
        raise ValueError("no such device")

    def works(run: object) -> list[Finding]:
        return [Finding("device", "works")]

    plugin = SimpleNamespace(loraplug_diagnostics=hookimpl(lambda: [breaks, works]))
    app = SimpleNamespace(registry=make_registry(plugin))
    broken, fine = _diagnosed(app)
    assert broken.severity == "warning"
    assert "no such device" in broken.text
    assert fine.text == "works"
    assert [finding.subject for finding in _plugins(app)] == ["plugins"]


@pytest.mark.parametrize(
    ("shell", "word"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --no-files")]
)
def test_completion_prints_what_the_shell_reads(loraplug: Cli, shell: str, word: str) -> None:
    """And what the script then calls answers with the commands."""
    assert word in loraplug("completion", shell).stdout
    asked = {"bash": "bash_complete", "zsh": "zsh_complete", "fish": "fish_complete"}[shell]
    words = {"COMP_WORDS": "loraplug do", "COMP_CWORD": "1" if shell != "fish" else "do"}
    environment = os.environ | words | {"_LORAPLUG_COMPLETE": asked}
    code = "import sys; sys.argv = ['loraplug']\nfrom loraplug.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "doctor" in done.stdout, done.stderr


def test_versions_as_json(loraplug: Cli) -> None:
    """`--json` belongs to `--version` there, and to nothing else."""
    found = json.loads(loraplug("--version", "--json").stdout)
    assert found.keys() >= {"loraplug", "python", "torch", "attrs"}
    assert loraplug("--version").stdout == f"loraplug {found['loraplug']}\n"
    assert loraplug("--json").returncode == 2
