"""Odd plugins, each as pip would leave it: listed with the reason, and nothing else suffers."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
import tomli_w

from command import ROOT, Cli
from loraplug import InputError, Plugin, PluginError, Registry, as_table, build, load_registry
from loraplug_tools.plugins.listing import list_plugins, show_plugin

SOURCE = '''
from typing import Annotated
import attrs, loraplug
from attrs import frozen
from loraplug import DatasetSource, Doc
{before}

{decorator}
class Odd(DatasetSource):
    """Odd rows."""

    name = "odd"
    {options}

    def load({parameters}):
        return 1 / 0

@loraplug.hookimpl
def loraplug_dataset_sources({asked}):
    return [Odd]
'''
Odd = Callable[..., Registry]


def source(
    before: str = "", options: str = "", parameters: str = "self, run", asked: str = "", decorator: str = "@frozen"
) -> str:
    """A module with one source."""
    return SOURCE.format(before=before, options=options, parameters=parameters, asked=asked, decorator=decorator)


def install(folder: Path, name: str, code: str, version: str = "1.0", points: str = "", module: str = "") -> None:
    """A distribution with one plugin, its name that of the distribution."""
    module = module or name.replace("-", "_")
    file = folder / f"{module.replace('.', '/')}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code, encoding="utf-8")
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(points or f"[loraplug]\n{name} = {module}\n", encoding="utf-8")


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Odd]:
    """Everything that is installed, and an odd plugin of this code beside it."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def load(code: str, name: str = "odd", **more: str) -> Registry:
        install(tmp_path, name, code, **more)
        return load_registry()

    yield load
    for name in [name for name in sys.modules if name not in before and name.startswith(("odd", "other", "shared"))]:
        del sys.modules[name]


def told(registry: Registry, name: str = "odd") -> Plugin:
    """The plugin of that name; all the built-in ones still work."""
    built_in = [plugin for plugin in registry.plugins if plugin.distribution == "loraplug"]
    assert len(built_in) >= 13
    assert {plugin.status for plugin in built_in} == {"ok"}
    found = next(plugin for plugin in registry.plugins if plugin.name == name)
    assert found.status == "ok" or str(found.reason) in list_plugins(registry, as_json=False)
    return found


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import asyncio; raise asyncio.CancelledError('x')", "CancelledError: x"),
        ("raise BaseException('odd')", "BaseException: odd"),
        ("import odd_that_is_not_there", "ModuleNotFoundError: No module named 'odd_that_is_not_there'"),
        ("import loraplug\n@loraplug.hookimpl\ndef loraplug_events():\n    raise GeneratorExit", "GeneratorExit"),
        (source(decorator="@attrs.define"), "is mutable: decorate it with @attrs.frozen"),
        (source(options="use: str = 'x'"), "may not be called use: the core reads that key"),
        (source(options="kind: str = 'x'"), "may not be called kind: DatasetSource has that name"),
        (source(options="transform: str = 'x'"), "may not be called transform: the core reads that key"),
        (source(options="check: int = 1"), "may not be called check: DatasetSource has that name"),
        (source(options="x: 'Undefined | None' = None"), "types of its options cannot be read: name 'Undefined'"),
        (source(options="inner: 'Odd' = attrs.field(factory=lambda: Odd())"), "the default of an option contains "
            "itself"),
        ('LORAPLUG_API = 1\nimport loraplug', "LORAPLUG_API = 1: write the version it was made for"),
    ],
)  # fmt: skip
def test_what_is_broken_is_listed_with_its_reason(odd: Odd, code: str, reason: str) -> None:
    """Whatever a module does when it is imported, it breaks itself alone."""
    plugin = told(odd(code))
    assert plugin.status == "broken"
    assert reason in str(plugin.reason)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (source(parameters="self, run, registry"), "cannot be called as load(self, run): missing a required"),
        (source(parameters="self"), "cannot be called as load(self, run): got an unexpected keyword argument 'run'"),
        (source(parameters="self, other"), "Odd.load(self, other) cannot be called as load(self, run)"),
        (source(asked="registry"), "hook loraplug_dataset_sources(registry): hooks are called without arguments"),
        ('LORAPLUG_API = "3.0"\n' + source(), "was made for plugin API 3.0, and this is 2.0; install a newer loraplug"),
        ('LORAPLUG_API = "2.9"\n' + source(), "was made for plugin API 2.9, and this is 2.0; install a newer loraplug"),
        ('LORAPLUG_API = "0.3"\n' + source(), "was made for plugin API 0.3, and this is 2.0; install a newer odd"),
        ('from loraplug import NotThereAnyMore\nLORAPLUG_API = "0.3"', "was made for plugin API 0.3"),
    ],
)
def test_what_was_made_for_another_api_is_incompatible(odd: Odd, code: str, reason: str) -> None:
    """Told when it is loaded, not in the middle of a run; also where it cannot be imported any more."""
    plugin = told(odd(code))
    assert plugin.status == "incompatible"
    assert reason in str(plugin.reason)


def test_parameters_with_a_default_and_catch_alls_are_fine(odd: Odd) -> None:
    """Verbs are called by keyword, so more may be there as long as no more is needed."""
    assert told(odd('LORAPLUG_API = "2.0"\n' + source(parameters="self, extra=1, **named"))).status == "ok"


@pytest.mark.parametrize("file", ["METADATA", "entry_points.txt"])
@pytest.mark.parametrize("data", [b"Name: \xe9\n", b""])
def test_metadata_that_cannot_be_read(odd: Odd, tmp_path: Path, file: str, data: bytes) -> None:
    """Not UTF-8, or not there at all: the distribution is named by its folder."""
    install(tmp_path, "other-one", source())
    path = tmp_path / "other-one-1.0.dist-info" / file
    path.write_bytes(data) if data else path.unlink()
    plugins = [plugin for plugin in odd(source()).plugins if plugin.distribution == "other-one"]
    if file == "entry_points.txt" and not data:
        assert not plugins
        return
    (plugin,) = plugins
    assert (plugin.status, plugin.version) == ("unreadable", "1.0")
    assert file in str(plugin.reason)


def test_an_entry_point_that_is_none(odd: Odd) -> None:
    """A line without = takes its own distribution out, and no other."""
    plugin = told(odd("", points="[loraplug]\nodd = odd\nwhat is this\n"))
    assert plugin.status == "unreadable"
    assert "a line that is not NAME = MODULE" in str(plugin.reason)


def test_the_second_version_on_the_path_is_named(odd: Odd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first wins."""
    install(tmp_path / "later", "odd", source(), version="2.0")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "later")])
    first, second = (plugin for plugin in odd(source()).plugins if plugin.name == "odd")
    assert (first.version, first.status) == ("1.0", "ok")
    assert (second.version, second.status, second.reason) == ("2.0", "shadowed", "odd 1.0 comes before it on the path")


COMMAND = '''
import click, loraplug

@click.command("{name}")
def command():
    """Says {said}."""
    click.echo("{said}")

@loraplug.hookimpl
def loraplug_commands():
    return [command{more}]
'''


def test_a_command_of_a_built_in_name_is_refused(odd: Odd) -> None:
    """The built-in one stays, and both are named."""
    registry = odd(COMMAND.format(name="run", said="hijacked", more=""))
    plugin = told(registry)
    assert plugin.status == "broken"
    assert 'brings a command "run", as recipes (loraplug' in str(plugin.reason)
    assert "Run RECIPE" in str(getattr(registry.command("run"), "help", ""))


def test_two_commands_of_one_name_are_an_error_that_names_both(odd: Odd, tmp_path: Path) -> None:
    """Never silently the first; the list says so of each."""
    install(tmp_path, "other", COMMAND.format(name="hello", said="other", more=""))
    registry = odd(COMMAND.format(name="hello", said="odd", more=""))
    with pytest.raises(PluginError, match=r'bring a command "hello": odd \(odd 1.0\) and other') as error:
        registry.command("hello")
    assert "LORAPLUG_DISABLE=odd" in str(error.value.todo)
    assert "also provided by other (other 1.0)" in list_plugins(registry, as_json=False)


def test_one_plugin_with_two_commands_of_one_name(odd: Odd) -> None:
    """Is refused."""
    plugin = told(odd(COMMAND.format(name="hello", said="odd", more=", command")))
    assert 'brings two commands called "hello"' in str(plugin.reason)


def test_one_distribution_with_two_components_of_one_name(odd: Odd, tmp_path: Path) -> None:
    """`use = "distribution:name"` could not tell them apart, so the second plugin is refused."""
    (tmp_path / "odd_again.py").write_text(source(), encoding="utf-8")
    registry = odd(source(), points="[loraplug]\nodd = odd\nodd-again = odd_again\n")
    assert told(registry).status == "ok"
    assert 'brings a dataset "odd", as odd (odd 1.0) does' in str(told(registry, "odd-again").reason)


LOADER = '''
from attrs import frozen
import loraplug
from loraplug import ModelLoader

@frozen
class Other(ModelLoader):
    """Another loader."""
    name = "transformers"
    def load_tokenizer(self, run): ...
    def load_model(self, run, quantization=None, placement=None): ...
    def base(self, run): ...

@loraplug.hookimpl
def loraplug_model_loaders():
    return [Other]
'''


def test_a_loader_called_transformers(odd: Odd, tmp_path: Path) -> None:
    """What the core asks for by name is the built-in one; a recipe says which."""
    registry = odd(LOADER)
    assert told(registry).status == "ok"
    from loraplug import open_model

    assert type(open_model(tmp_path, registry).loader).__module__ == "loraplug_hf.loader"
    with pytest.raises(PluginError, match='write use = "loraplug:transformers" or use = "odd:transformers"'):
        registry.find("model", "transformers")


DEFAULTS = """
    from_: Annotated[list[str], Doc("a list")] = attrs.field(factory=lambda: ["a"])
    path: Annotated[Path, Doc("a path")] = Path("rows.csv")
    paths: Annotated[tuple[Path, ...], Doc("paths")] = (Path("a"), Path("b"))
    colour: Annotated[Colour, Doc("an enum")] = Colour.RED
    day: Annotated[date, Doc("a date")] = date(2026, 1, 31)
    names: Annotated[frozenset[str], Doc("a set")] = frozenset({"b", "a"})
    pair: Annotated[tuple[int, str], Doc("a pair")] = (1, "one")
    table: Annotated[Left | Right, Doc("a union of tables")] = Left()
    own: Annotated[int, Doc("of another option")] = attrs.Factory(lambda self: 1, takes_self=True)
"""
BEFORE = """
from datetime import date
from enum import Enum
from pathlib import Path

class Colour(Enum):
    RED = "red"
    BLUE = "blue"

@frozen
class Left:
    left: Annotated[int, Doc("x")] = 1

@frozen
class Right:
    right: Annotated[int, Doc("x")]
"""


def test_defaults_of_every_type(odd: Odd, recipe: Path) -> None:
    """Shown, in the schema, and in a recipe that is written out and read again."""
    registry = odd(source(BEFORE, DEFAULTS))
    assert told(registry).status == "ok"
    page = show_plugin(registry, "odd", as_json=False)
    for line in (
        "from_  (list of str)",
        'colour = "red"',
        "day = 2026-01-31",
        '("red" | "blue")',
        "pair  (list of int, str)",
        "table (left) | table (right)",
    ):
        assert line in page
    assert json.loads(show_plugin(registry, "odd", as_json=True))[0]["name"] == "odd"
    from loraplug_tools.recipes.schema import schema

    properties = schema(registry)["$defs"]["dataset.odd:odd"]["properties"]
    assert properties["colour"] | {"enum": ["red", "blue"], "default": "red"} == properties["colour"]
    assert properties["names"]["default"] == ["a", "b"]
    assert json.dumps(properties)
    text = recipe.read_text().replace('use = "jsonl"\npath = "rows.jsonl"', 'use = "odd"\ncolour = "blue"')
    recipe.write_text(text)
    from loraplug.recipe.layers import read_layers

    recipe_one = build(read_layers(recipe, environ=False), registry)
    table = as_table(recipe_one, registry)
    recipe.write_text(tomli_w.dumps(table))
    assert build(read_layers(recipe, environ=False), registry).dataset == recipe_one.dataset
    assert table["dataset"]["day"] == date(2026, 1, 31)
    assert table["dataset"]["colour"] == "blue"
    assert table["dataset"]["paths"] == ["a", "b"]


NAMESPACE = '''
import loraplug
from attrs import frozen
from loraplug import DatasetSource

@frozen
class Part(DatasetSource):
    """Part."""
    name = "{name}"
    def load(self, run):
        return 1 / 0

@loraplug.hookimpl
def loraplug_dataset_sources():
    return [Part]
'''


def test_in_a_namespace_package_the_right_one_is_blamed(odd: Odd, tmp_path: Path) -> None:
    """Two distributions share a package; each is blamed for its own module."""
    install(tmp_path, "other", NAMESPACE.format(name="two"), module="shared.two")
    registry = odd(NAMESPACE.format(name="one"), module="shared.one")
    for use, name in (("one", "odd"), ("two", "other")):
        with pytest.raises(ZeroDivisionError) as caught:
            registry.find("dataset", use)().load(run=None)  # type: ignore[attr-defined]
        blamed = registry.blame(caught.value)
        assert blamed is not None
        assert blamed.name == name


def test_what_prints_or_dawdles_is_noted_and_json_stays_json(cold: Cli, tmp_path: Path) -> None:
    """Standard output is for the answer; what is slow is named with its seconds."""
    install(tmp_path / "path", "odd", "import time\nprint('hello')\ntime.sleep(0.6)\n" + source())
    done = cold("plugins", "list", "--json", env={"PYTHONPATH": str(tmp_path / "path")})
    plugin = next(plugin for plugin in json.loads(done.stdout)["plugins"] if plugin["name"] == "odd")
    assert plugin["notes"][1] == "prints when it is loaded"
    assert plugin["notes"][0].startswith("takes ")
    assert plugin["seconds"] >= 0.6
    assert "hello" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_plugin_that_hangs_can_be_interrupted_and_is_named(tmp_path: Path, number: str, code: int, word: str) -> None:
    """A signal is the user's, and not a fault of the plugin."""
    begun = tmp_path / "begun"
    install(tmp_path, "odd", f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(60)\n")
    program = [sys.executable, "-c", "from loraplug.cli import main; main(['plugins', 'list'])"]
    running = subprocess.Popen(
        program, env=os.environ | {"PYTHONPATH": str(tmp_path)}, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )  # fmt: skip
    for _ in range(1200):
        if begun.exists() or running.poll() is not None:
            break
        time.sleep(0.05)
    running.send_signal(getattr(signal, number))
    _, said = running.communicate(timeout=60)
    assert running.returncode == code, said
    assert f"{word} while plugin odd (odd 1.0) was being loaded" in said


def test_plugins_check_sees_what_changes_the_core(odd: Odd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that puts its own function in place of one of loraplug's."""
    from loraplug_tools.plugins.check import check_package

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = "import loraplug.pipeline.transforms\nloraplug.pipeline.transforms.transformed = None\n"
    registry = odd(source())
    (tmp_path / "odd.py").write_text(code + source(options="x: Annotated[int, Doc('x')]"), encoding="utf-8")
    found = next(item for item in check_package("odd", registry) if item.check == "does not change loraplug")
    assert found.status == "failed"
    assert "replaces loraplug.pipeline.transforms.transformed when it is loaded" in found.detail


def test_a_lock_runs_though_another_brings_that_name_by_now(
    odd: Odd, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It remembers who brought what; a recipe has to say."""
    import loraplug.recipe.lock
    from loraplug.recipe.layers import read_layers

    def read(path: Path, registry: Registry) -> loraplug.Recipe:
        return loraplug.build(read_layers(path, environ=False), registry)

    alone = load_registry()
    lock = recipe.with_name("recipe.lock.toml")
    lock.write_text(loraplug.recipe.lock.lock_text(read(recipe, alone), alone, {}))
    crowded = odd(source().replace('"odd"', '"jsonl"'))
    assert len(crowded.named("jsonl")) == 2
    assert type(read(lock, crowded).dataset).__module__ == "loraplug_data.sources"
    with pytest.raises(InputError, match='write use = "loraplug:jsonl" or use = "odd:jsonl"'):
        read(recipe, crowded)
    recipe.write_text(recipe.read_text().replace('"jsonl"', '"loraplug:jsonl"'))
    lock.write_text(loraplug.recipe.lock.lock_text(read(recipe, crowded), crowded, {}))
    for registry in (crowded, alone):
        assert type(read(lock, registry).dataset).__module__ == "loraplug_data.sources"


def test_built_in_components_have_types_that_can_be_read() -> None:
    """Checked here, and not each time they are loaded."""
    from loraplug import options

    own = [entry for entry in load_registry().entries if entry.plugin.distribution == "loraplug"]
    assert len(own) >= 20
    assert all(option.doc for entry in own for option in options(entry.cls))


def test_everything_that_is_exported_is_there_and_plugins_import_no_more() -> None:
    """What `from loraplug import …` names in the built-in plugins stands in `__all__`, and comes from there."""
    import loraplug

    assert all(getattr(loraplug, name) is not None for name in loraplug.__all__)
    used: set[str] = set()
    for path in (ROOT / "plugins").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "loraplug":
                used |= {alias.name for alias in node.names}
    assert len(used) > 40
    assert used <= set(loraplug.__all__)
