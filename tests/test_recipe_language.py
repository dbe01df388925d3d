"""What a recipe can say beside its tables: several bases, variables, settings, plugins to do without."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import Cli
from loraplug import InputError, load_registry
from loraplug.config.tables import Layers, Origin
from loraplug.errors import RecipeError
from loraplug.recipe.building import build
from loraplug.recipe.layers import read_layers
from loraplug.recipe.lock import as_table
from loraplug.recipe.recipe import Recipe

REGISTRY = load_registry()


def read(path: Path, *settings: str, **layers: Any) -> Recipe:
    return build(read_layers(path, settings, **layers), REGISTRY)


def test_of_several_bases_the_later_one_wins(recipe: Path, tmp_path: Path) -> None:
    """And the file itself over all of them; a base may have bases of its own."""
    (tmp_path / "deep.toml").write_text("seed = 1\n[trainer.lora]\nr = 1\nalpha = 1\n")
    (tmp_path / "more.toml").write_text('extends = ["deep.toml"]\n[trainer.lora]\nr = 2\n[dataset]\nlimit = 5\n')
    child = tmp_path / "child.toml"
    child.write_text('extends = ["recipe.toml", "more.toml"]\n[trainer.lora]\nalpha = 3\n')
    found: Any = read(child, environ=False)
    assert (found.seed, found.trainer.lora.r, found.trainer.lora.alpha, found.dataset.limit) == (1, 2, 3.0, 5)
    assert found.trainer.max_steps == 4


@pytest.mark.parametrize(("bases", "said"), [("[1]", "expected a file name"), ('["gone.toml"]', "no such file")])
def test_a_base_that_cannot_be_read_is_named(tmp_path: Path, bases: str, said: str) -> None:
    """The error says who extends it."""
    (tmp_path / "child.toml").write_text(f"extends = {bases}\n")
    with pytest.raises(InputError, match=said):
        read_layers(tmp_path / "child.toml")


def test_variables_are_filled_in(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, then .env; in lists and list items too; `$${` is a plain `${`."""
    text = recipe.read_text().replace('"rows.jsonl"', '"${DATA_FOLDER}/${FILE}.jsonl"')
    text = text.replace("samples = 0", 'samples = 0\n[trainer.lora]\ntarget_modules = ["${LAYER}", "$${LAYER}"]')
    recipe.write_text(text.replace('use = "merged"', 'use = "merged"\nout = "${DATA_FOLDER}"', 1))
    monkeypatch.setenv("DATA_FOLDER", "sub")
    dotenv = {"DATA_FOLDER": "not this", "FILE": "rows", "LAYER": "q_proj"}
    found: Any = read(recipe, dotenv=dotenv)
    assert found.dataset.path == tmp_path / "sub" / "rows.jsonl"
    assert found.trainer.lora.target_modules == ("q_proj", "${LAYER}")
    assert found.exporter[1].out == tmp_path / "sub"


def test_a_variable_that_is_not_set_is_named_with_its_key(recipe: Path) -> None:
    """Every one of them in one go."""
    text = recipe.read_text().replace('"rows.jsonl"', '"${NOWHERE_SET}/x"').replace('"tiny"', '"${NOR_THIS}"')
    recipe.write_text(text)
    with pytest.raises(InputError) as caught:
        read_layers(recipe)
    assert "dataset.path: ${NOWHERE_SET} is not set" in str(caught.value)
    assert "run_name: ${NOR_THIS} is not set" in str(caught.value)


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "MY_SECRET", "db_password", "KEY", "openai_apikey"])
def test_a_secret_is_not_filled_in(recipe: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It would be written into the lock file; the value is not in the error either."""
    recipe.write_text(recipe.read_text().replace('"rows.jsonl"', f'"${{{name}}}"'))
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(InputError, match=rf"dataset\.path: \$\{{{name}\}} looks like a secret") as caught:
        read_layers(recipe)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["MONKEY", "KEYBOARD", "HOME_FOLDER"])
def test_a_name_that_only_looks_alike_is_no_secret(recipe: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """KEY counts as a word of its own."""
    recipe.write_text(recipe.read_text().replace('"rows.jsonl"', f'"${{{name}}}.jsonl"'))
    monkeypatch.setenv(name, "value")
    assert read(recipe).dataset.path.name == "value.jsonl"  # type: ignore[attr-defined]


@pytest.mark.parametrize("setting", ["run_name=a\udcff", "trainer.lora.rank_pattern.a\udcff=1"])
def test_bytes_that_are_no_text_are_refused(recipe: Path, setting: str) -> None:
    """What cannot be written into a lock file is refused before anything runs; found by fuzz."""
    with pytest.raises(InputError, match="not UTF-8: the byte 0xff"):
        read(recipe, setting)


def test_a_recipe_in_a_folder_whose_name_is_no_text_is_refused(recipe: Path, tmp_path: Path) -> None:
    """Its place is written into the lock file."""
    if os.name == "nt" or sys.platform == "darwin":
        pytest.skip("here every name of a folder is text")
    moved = tmp_path / "a\udcff" / "recipe.toml"
    moved.parent.mkdir()
    moved.write_bytes(recipe.read_bytes())
    with pytest.raises(InputError, match="not UTF-8"):
        read(moved)


def test_a_lock_file_is_not_expanded(recipe: Path) -> None:
    """It is resolved already: what looks like a variable is meant so."""
    text = recipe.read_text().replace('"rows.jsonl"', '"${NOWHERE_SET}.jsonl"')
    recipe.write_text(text + f"[lock]\nfolder = '{recipe.parent}'\n")
    assert read(recipe).dataset.path.name == "${NOWHERE_SET}.jsonl"  # type: ignore[attr-defined]


def test_what_show_prints_means_the_same_again(recipe: Path, loraplug: Cli) -> None:
    """A plain `${` is escaped in it."""
    recipe.write_text(recipe.read_text().replace('"rows.jsonl"', '"$${x}.jsonl"'))
    again = recipe.with_name("again.toml")
    again.write_text(loraplug("recipe", "show", recipe).stdout)
    assert read(again, environ=False).dataset == read(recipe, environ=False).dataset


@given(text=st.text(max_size=30))
def test_without_a_variable_any_text_stays_as_it_is(text: str) -> None:
    """Escaping and filling in undo each other."""
    layers = Layers(Path("x"), Path())
    layers.overlay({"key": [text.replace("${", "$${")]}, Origin("x", Path()))
    layers.expand({})
    assert layers.table == {"key": [text]}


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("exporter.0.out=there", ("exporter", 0, "out"), "there"),
        ("trainer.lora.r=8", ("trainer", "lora", "r"), 8),
        ('trainer.lora.target_modules=["a", "b"]', ("trainer", "lora", "target_modules"), ["a", "b"]),
        ('trainer.lora.rank_pattern."model.layers.0"=4', ("trainer", "lora", "rank_pattern", "model.layers.0"), 4),
        ("dataset.rename.'a=b'=x=y", ("dataset", "rename", "a=b"), "x=y"),
        ('dataset.rename."0"=zero', ("dataset", "rename", "0"), "zero"),
        ('exporter=[{use="gguf"}]', ("exporter",), [{"use": "gguf"}]),
        ('exporter+={use="gguf"}', ("exporter", 2, "use"), "gguf"),
        ('trainer.lora.target_modules+="c"', ("trainer", "lora", "target_modules"), ["c"]),
        ("dataset.path=a b.jsonl", ("dataset", "path"), "a b.jsonl"),
        ("validation={fraction=0.5}", ("validation",), {"fraction": 0.5}),
    ],
)
def test_a_setting_reaches_every_place(recipe: Path, setting: str, place: Any, value: Any) -> None:
    """Nested tables, items of lists, whole lists, quoted keys, and one more item."""
    layers = read_layers(recipe, [setting], environ=False)
    assert layers.value(place) == value
    said = layers.origin(place)
    assert said is not None
    assert said.label == "--set"
    assert layers.origins["trainer", "max_steps"].label == str(recipe)


def test_appending_keeps_what_is_there_and_who_said_it(recipe: Path) -> None:
    """Only the new item comes from --set."""
    layers = read_layers(recipe, ['exporter+=[{use="gguf"}, {use="ollama"}]'], environ=False)
    assert [item["use"] for item in layers.table["exporter"]] == ["adapter", "merged", "gguf", "ollama"]
    assert [layers.origins["exporter", n, "use"].label for n in (1, 2)] == [str(recipe), "--set"]
    with pytest.raises(InputError, match="run_name is not a list"):
        read_layers(recipe, ["run_name+=x"])


def test_a_disabled_plugin_is_not_there_for_this_recipe(recipe: Path) -> None:
    """What needs it says so, and where it was disabled; the resolved recipe keeps the word."""
    text = recipe.read_text()
    recipe.write_text(text + '[plugins]\ndisable = ["swe", "serve"]\n')
    found = read(recipe, environ=False)
    assert as_table(found, REGISTRY)["plugins"] == {"disable": ["swe", "serve"]}
    recipe.write_text(text + '[plugins]\ndisable = ["train"]\n')
    with pytest.raises(RecipeError) as caught:
        read(recipe, environ=False)
    assert re.search(
        r"trainer\.use: no trainer named \"sft\".*plugin train .* is disabled: \[plugins\]", str(caught.value)
    )
    assert str(recipe) in str(caught.value)
    assert REGISTRY.find("trainer", "sft")


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ('disable = ["trian"]', 'plugins.disable[0]: no plugin named "trian"; try train'),
        ('disable = "sft"', "plugins.disable: expected list of str, got str 'sft'"),
        ("enable = []", "plugins.enable: unknown key"),
    ],
)
def test_a_wrong_plugins_table_is_reported(recipe: Path, said: str, problem: str) -> None:
    """Like any other table."""
    recipe.write_text(recipe.read_text() + f"[plugins]\n{said}\n")
    with pytest.raises(RecipeError) as caught:
        read(recipe, environ=False)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("table", "todo"),
    [
        ('[[transform]]\nuse = "shuffle"', "transform: unknown key; write [[dataset.transform]]"),
        ("[lora]\nr = 8", "lora: unknown key; write [trainer.lora]"),
        ("[traner]\nepochs = 1", "traner: unknown key (did you mean trainer?)"),
    ],
)
def test_a_table_that_stands_in_another_is_told_where(recipe: Path, table: str, todo: str) -> None:
    """Not the table whose name happens to be nearest."""
    recipe.write_text(f"{recipe.read_text()}{table}\n")
    with pytest.raises(RecipeError) as caught:
        read(recipe, environ=False)
    assert todo in str(caught.value)


def test_a_lock_file_may_be_extended(recipe: Path, tmp_path: Path) -> None:
    """Its paths start from its folder, those of the file that extends it from where that lies."""
    lock = tmp_path / "lock.toml"
    lock.write_text(recipe.read_text() + f"[lock]\nfolder = '{tmp_path / 'old'}'\n")
    child = tmp_path / "new" / "child.toml"
    child.parent.mkdir()
    child.write_text('extends = "../lock.toml"\n[[exporter]]\nuse = "adapter"\nout = "here"\n')
    found: Any = read(child, environ=False)
    assert found.dataset.path == tmp_path / "old" / "rows.jsonl"
    assert found.exporter[0].out == tmp_path / "new" / "here"
