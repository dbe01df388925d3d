"""A plugin that breaks, in whatever hook, is named with its version and where to report it; nothing else breaks."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from command import ROOT, Cli
from loraplug import load_registry
from loraplug_tools.plugins.commands import KINDS
from loraplug_tools.plugins.listing import list_plugins

HOOKS = {
    "dataset": "loraplug_dataset_sources",
    "transform": "loraplug_transforms",
    "formatter": "loraplug_formatters",
    "model": "loraplug_model_loaders",
    "quantizer": "loraplug_quantizers",
    "adapter": "loraplug_adapters",
    "optimizer": "loraplug_optimizers",
    "scheduler": "loraplug_schedulers",
    "trainer": "loraplug_trainers",
    "exporter": "loraplug_exporters",
    "commands": "loraplug_commands",
    "events": "loraplug_events",
    "diagnostics": "loraplug_diagnostics",
}
URL = "https://example.test/rude/issues"
FAILS = """
import loraplug

@loraplug.hookimpl
def {hook}():
    return {result}
"""
PART = '''
from attrs import frozen
import loraplug
from {module} import {base}

@frozen
class Rude({base}):
    """Fails in {method}."""

    name = "rude"

    def {method}(self, *given, **named):
        return 1 / 0

@loraplug.hookimpl
def {hook}():
    return [Rude]
'''


def install(folder: Path, code: str) -> dict[str, str]:
    """The distribution `rude` 2.5, as pip leaves it; gives the environment in which it is installed."""
    (folder / "rude.py").write_text(code, encoding="utf-8")
    info = folder / "rude-2.5.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: rude\nVersion: 2.5\nProject-URL: Issues, {URL}\n"
    (info / "METADATA").write_text(metadata)
    (info / "entry_points.txt").write_text("[loraplug]\nrude-one = rude\n")
    path = [str(folder), str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path)}


def test_the_kinds_and_the_hooks_are_the_same_list() -> None:
    """What can be scaffolded is what is tested here."""
    assert tuple(HOOKS) == KINDS


@pytest.mark.parametrize("hook", HOOKS.values())
@pytest.mark.parametrize(
    ("result", "reason"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("3", "TypeError: 'int' object"), ("[3]", "3 ")],
    ids=["raises", "no-list", "wrong"],
)
def test_a_hook_that_fails_is_listed_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: str, result: str, reason: str
) -> None:
    """Raising, giving no list, giving what is no component: one broken line, and everything else still there."""
    install(tmp_path, FAILS.format(hook=hook, result=result))
    monkeypatch.syspath_prepend(tmp_path)
    lines = list_plugins(load_registry(), as_json=False).splitlines()
    del sys.modules["rude"]
    (line,) = [line for line in lines if line.split()[1] == "rude-one"]
    assert line.split()[:5] == ["plugin", "rude-one", "rude", "2.5", "broken"]
    assert reason in line
    assert line.endswith(f"report it to {URL}")
    assert any(line.startswith("trainer") and " ok " in line for line in lines)


@pytest.mark.parametrize(
    "code", [FAILS.format(hook="loraplug_trainers", result="None"), "def loraplug_trainers(): 1 / 0"]
)
def test_a_plugin_that_brings_nothing_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """pluggy passes over None, and over a hook that is not marked; its author would look for it in vain."""
    install(tmp_path, code)
    monkeypatch.syspath_prepend(tmp_path)
    lines = list_plugins(load_registry(), as_json=False).splitlines()
    del sys.modules["rude"]
    (line,) = [line for line in lines if line.split()[1] == "rude-one"]
    assert line.split()[4] == "ok"
    assert line.endswith("provides nothing: are its hooks decorated with @loraplug.hookimpl?")


def test_a_disabled_plugin_is_listed_with_who_disabled_it(loraplug: Cli, tmp_path: Path) -> None:
    """And neither list nor JSON has any of its components."""
    done = loraplug("plugins", "list", env={"LORAPLUG_DISABLE": "train"})
    (line,) = [line for line in done.stdout.splitlines() if line.split()[1] == "train"]
    assert line.split()[0] == "plugin"
    assert "disabled" in line
    assert line.endswith("named in LORAPLUG_DISABLE")
    data = json.loads(loraplug("plugins", "list", "--json", env={"LORAPLUG_DISABLE": "train"}).stdout)
    assert next(plugin for plugin in data["plugins"] if plugin["name"] == "train")["status"] == "disabled"
    assert not [part for part in data["components"] if part["kind"] == "trainer"]


def test_a_recipe_that_needs_a_broken_plugin_is_told_where_to_report_it(
    loraplug: Cli, recipe: Path, tmp_path: Path
) -> None:
    """The unknown name may be what the broken plugin would have brought."""
    env = install(tmp_path, FAILS.format(hook="loraplug_trainers", result="1 / 0"))
    done = loraplug("recipe", "check", recipe, "--set", "trainer.use=rude", env=env)
    assert done.returncode == 2
    assert "plugin rude-one (rude 2.5) is broken: ZeroDivisionError" in done.stderr
    assert f"report it to {URL}" in done.stderr


def test_a_command_that_fails_names_its_plugin(loraplug: Cli, tmp_path: Path) -> None:
    """Not ours to mend: the error says whose."""
    code = '''
import click
import loraplug

@click.command()
def rude():
    """Fail."""
    1 / 0

@loraplug.hookimpl
def loraplug_commands():
    return [rude]
'''
    done = loraplug("rude", env=install(tmp_path, code))
    assert done.returncode == 1
    assert "plugin rude-one (rude 2.5) failed: ZeroDivisionError: division by zero" in done.stderr
    assert f"report it to {URL}" in done.stderr
    assert "Traceback" not in done.stderr


BROKEN_VERBS = [
    ("dataset", "loraplug", "DatasetSource", "load"),
    ("formatter", "loraplug", "Formatter", "encode"),
    ("model", "loraplug_hf.loader", "TransformersModel", "load_tokenizer"),
    ("model", "loraplug_hf.loader", "TransformersModel", "base"),
    ("quantizer", "loraplug", "Quantizer", "config"),
    ("trainer", "loraplug", "Trainer", "train"),
    ("exporter", "loraplug", "Exporter", "export"),
]


def broken(tmp_path: Path, recipe: Path, verb: tuple[str, str, str, str], method: str | None = None) -> dict[str, str]:
    """Install a component that fails in a method, and make the recipe use it."""
    kind, module, base, verb_name = verb
    code = PART.format(module=module, base=base, method=method or verb_name, hook=HOOKS[kind])
    if method is not None:
        needed = f"\n    def {verb_name}(self, *_, **__):\n        pass\n"
        code = code.replace('    name = "rude"\n', f'    name = "rude"\n{needed}')
    text = recipe.read_text()
    model = text.split("id = ")[1].splitlines()[0]
    table = {
        "dataset": '[dataset]\nuse = "rude"\n',
        "formatter": '[formatter]\nuse = "rude"\n',
        "model": f'[model]\nuse = "rude"\nid = {model}\n',
        "quantizer": '[quantizer]\nuse = "rude"\n',
        "trainer": '[trainer]\nuse = "rude"\n',
        "exporter": '[[exporter]]\nuse = "rude"\n',
    }
    head, *tables = text.split("\n[")
    kept = [part for part in tables if not part.lstrip("[").startswith(f"{kind}]")]
    recipe.write_text("\n[".join([head, *kept]) + "\n" + table[kind])
    return install(tmp_path, code)


@pytest.mark.slow
@pytest.mark.parametrize("verb", BROKEN_VERBS, ids=lambda verb: f"{verb[0]}.{verb[3]}")
def test_a_verb_that_fails_names_its_plugin(
    loraplug: Cli, recipe: Path, tmp_path: Path, verb: tuple[str, str, str, str]
) -> None:
    """In a real run: stage, plugin, version, what was raised, where to report it."""
    env = broken(tmp_path, recipe, verb)
    recipe.write_text(recipe.read_text().replace("max_steps = 4", "max_steps = 1"))
    done = loraplug("run", recipe, env=env)
    assert done.returncode == 1, done.stderr
    assert "plugin rude-one (rude 2.5) failed: ZeroDivisionError: division by zero" in done.stderr
    assert f"report it to {URL}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("verb", "method"), [(BROKEN_VERBS[0], "check"), (BROKEN_VERBS[-1], "place")])
def test_what_is_asked_before_a_run_names_its_plugin(
    loraplug: Cli, recipe: Path, tmp_path: Path, verb: tuple[str, str, str, str], method: str
) -> None:
    """`check` of a component and `place` of an exporter are outside all stages."""
    done = loraplug("run", recipe, env=broken(tmp_path, recipe, verb, method))
    assert done.returncode == 1, done.stderr
    assert "plugin rude-one (rude 2.5) failed: ZeroDivisionError: division by zero" in done.stderr
    assert f"report it to {URL}" in done.stderr


@pytest.mark.slow
def test_an_observer_is_told_everything_and_cannot_stop_a_run(loraplug: Cli, recipe: Path, tmp_path: Path) -> None:
    """A real plugin in a real run: every event in order, as in events.jsonl; a broken observer is warned of."""
    code = """
import json
from pathlib import Path
import loraplug

def keeps(event):
    with open("seen.jsonl", "a") as file:
        file.write(json.dumps([event.kind, event.run_name, event.data]) + "\\n")

def breaks(event):
    if event.kind == "artefact":
        raise KeyError("gone")

@loraplug.hookimpl
def loraplug_events():
    return [breaks, keeps]
"""
    done = loraplug("run", recipe, env=install(tmp_path, code))
    assert done.returncode == 0, done.stderr
    assert "observer of plugin rude-one (rude 2.5) failed: KeyError('gone')" in done.stderr
    assert URL in done.stderr
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert {name for _, name, _ in seen} == {"tiny"}
    ends = [data["stage"] for kind, _, data in seen if kind == "stage-end"]
    starts = [data["stage"] for kind, _, data in seen if kind == "stage-start"]
    assert sorted(ends) == sorted(starts)  # the trainer loads the model, so its stage begins before that of the model
    assert list(dict.fromkeys(ends)) == ["dataset", "model", "formatter", "trainer", "exporter"]
    steps = [data for kind, _, data in seen if kind == "metrics" and "loss" in data]
    assert [data["step"] for data in steps] == [1, 2, 3, 4]
    assert {"epoch", "learning_rate", "grad_norm", "tokens_per_second", "seconds"} <= steps[0].keys()
    made = [(data["name"], Path(data["path"]).is_dir()) for kind, _, data in seen if kind == "artefact"]
    assert made == [("adapter", True), ("merged", True)]
    kept = [json.loads(line) for line in (tmp_path / "outputs/runs/tiny/events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in kept] == [kind for kind, _, _ in seen]
