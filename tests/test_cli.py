"""The command line: what it prints, what it refuses, and what it never imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from command import ROOT, Cli

HEAVY = ("torch", "transformers", "datasets", "trl", "peft", "gradio", "matplotlib", "numpy", "pandas", "bitsandbytes")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--help"],
        ["chat", "--help"],
        ["web", "--help"],
        ["export", "--help"],
        ["plugins", "list"],
        ["plugins", "list", "--json"],
        ["plugins", "show", "sft"],
        ["recipe", "check", "recipes/quickstart.toml"],
        ["recipe", "show", "recipes/swe_qlora.toml"],
        ["doctor"],
        ["completion", "bash"],
    ],
    ids=" ".join,
)
def test_looking_never_imports_a_heavy_library(words: list[str]) -> None:
    """Listing, checking and help stay fast: none of the big libraries is loaded, nor rich."""
    code = (
        "import sys\nfrom loraplug.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        f"loaded = [name for name in {(*HEAVY, 'rich')!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_plugins_list_names_all_six_kinds(loraplug: Cli) -> None:
    """One line a component, with who brought it."""
    done = loraplug("plugins", "list")
    assert done.returncode == 0
    for kind in ("dataset", "formatter", "model", "quantizer", "trainer", "exporter"):
        assert any(line.startswith(kind) and "loraplug 0.1" in line for line in done.stdout.splitlines())
    data = json.loads(loraplug("plugins", "list", "--json").stdout)
    assert {"sft", "chat-template", "bitsandbytes"} <= {part["name"] for part in data["components"]}
    assert all(plugin["status"] == "ok" for plugin in data["plugins"])


def test_plugins_show_gives_options_and_a_snippet_that_checks(loraplug: Cli, recipe: Path) -> None:
    """The snippet can be pasted into a recipe as it stands."""
    done = loraplug("plugins", "show", "chat-template")
    assert "max_length  (int)" in done.stdout
    assert '[formatter]\n  use = "chat-template"' in done.stdout
    (shown,) = json.loads(loraplug("plugins", "show", "sft", "--json").stdout)
    lora = next(option for option in shown["options"] if option["name"] == "lora")
    assert lora["options"][0] | {"doc": ""} == {"name": "r", "type": "int", "required": False, "default": 16, "doc": ""}
    start, end = recipe.read_text().index("[trainer]"), recipe.read_text().index("[[exporter]]")
    text = recipe.read_text()
    recipe.write_text(text[:start] + shown["snippet"] + "\n" + text[end:])
    checked = loraplug("recipe", "check", recipe)
    assert checked.returncode == 0, checked.stderr


def test_recipe_check_names_the_whole_next_command(recipe: Path, loraplug: Cli) -> None:
    """What was overridden for the check is overridden for the run."""
    checked = loraplug("recipe", "check", recipe, "--set", "trainer.epochs=1", "--set", 'dataset.rename={a = "b"}')
    assert checked.stdout.endswith(
        f"Next: loraplug run {recipe} --set trainer.epochs=1 --set 'dataset.rename={{a = \"b\"}}'\n"
    )


def test_plugins_show_suggests(loraplug: Cli) -> None:
    """A misspelt name is answered with what was meant."""
    done = loraplug("plugins", "show", "chat-templat")
    assert done.returncode == 2
    assert "did you mean chat-template" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "missing.toml"], "missing.toml: no such recipe"),
        (["run", "recpie.toml"], "did you mean recipe.toml?"),
        (["run", "outputs/recipe.lock.toml"], "a run writes it when it has finished"),
        (["run", "{recipe}", "--until", "lunch"], 'no stage "lunch"'),
        (["run", "{recipe}", "--set", "model.revision=2022-01-31"], "put it in quotes"),
        (["run", "{recipe}", "--set", "dataset.path=nope.jsonl"], "nope.jsonl: no such file"),
        (["run", "{recipe}", "--set", "dataset.path=broken.jsonl"], "broken.jsonl:2: is not JSON"),
        (["run", "{recipe}", "--set", "dataset.path=empty.jsonl"], "has no rows"),
        (["run", "{recipe}", "--set", "dataset.path=strange.jsonl"], "columns seen: a, b"),
        (["run", "{recipe}", "--set", "run_name=../up"], "run_name: '../up' cannot be a folder name"),
        (["run", "{recipe}", "--set", "model.id=./nowhere"], "no such folder"),
        (["run", "{recipe}", "--set", "model.id=package:not_there/x.gguf"], 'no package "not_there"'),
        (["run", "{recipe}", "--set", "model.id=rows.gguf"], "rows.gguf: "),
        (["recipe", "check", "{recipe}", "--set", "trainer.lora.rank=3"], "did you mean r?"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_input_is_one_block_and_exit_code_2(
    recipe: Path, loraplug: Cli, tmp_path: Path, words: list[str], said: str
) -> None:
    """What was wrong, where, what to do; no traceback, nothing half-written under a final name."""
    (tmp_path / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "strange.jsonl").write_text('{"a": 1, "b": 2}\n')
    (tmp_path / "rows.gguf").write_text("no gguf at all")
    done = loraplug(*(word.format(recipe=recipe) for word in words))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert not (tmp_path / "outputs/adapters").is_dir() or not any((tmp_path / "outputs/adapters").iterdir())


def test_no_network_says_what_to_do(recipe: Path, loraplug: Cli) -> None:
    """A hub id without a network is no fault of the recipe (1), a hub that may not be asked is (2); with a way out."""
    nowhere = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    for code, told, env in ((1, "the hub could not be reached", nowhere), (2, "HF_HUB_OFFLINE is set", {})):
        done = loraplug("run", recipe, "--set", "model.id=nobody/nothing", env=env)
        assert done.returncode == code, done.stderr
        assert told in done.stderr and "local folder" in done.stderr


def test_debug_shows_the_traceback(recipe: Path, loraplug: Cli) -> None:
    """--debug may stand anywhere."""
    done = loraplug("run", "missing.toml", "--debug")
    assert "Traceback" in done.stderr
    assert "no such recipe" in done.stderr


def test_a_folder_that_cannot_be_written_is_named(recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """`outputs` is a file here, so not even root can make a folder in it."""
    (tmp_path / "outputs").write_text("moved an existing")
    done = loraplug("run", recipe)
    assert done.returncode == 1
    assert str(tmp_path / "outputs") in done.stderr
    assert "Traceback" not in done.stderr


def test_dotenv_of_the_working_folder_is_read(recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """RUN_NAME of .env names the run, unless the environment or --set does."""
    (tmp_path / ".env").write_text("RUN_NAME=from-dotenv\n")
    assert "run_name from-dotenv" in loraplug("recipe", "check", recipe).stdout
    assert "run_name from-env" in loraplug("recipe", "check", recipe, env={"RUN_NAME": "from-env"}).stdout
