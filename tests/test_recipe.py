"""Recipes: layers, strictness, every problem at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from attrs import field, frozen, validators
from hypothesis import given
from hypothesis import strategies as st

from command import Cli
from loraplug import DatasetSource, Doc, InputError, Run, load_registry
from loraplug.config.options import options
from loraplug.config.structure import structure
from loraplug.errors import RecipeError
from loraplug.recipe.building import build
from loraplug.recipe.layers import read_layers
from loraplug.recipe.lock import as_table
from loraplug.recipe.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
REGISTRY = load_registry()


def read(path: Path, *settings: str, **layers: Any) -> Recipe:
    return build(read_layers(path, settings, **layers), REGISTRY)


def problems(path: Path, *settings: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read(path, *settings, environ=False)
    return [str(problem) for problem in caught.value.problems]


def test_every_problem_is_reported_at_once_with_its_path(recipe: Path) -> None:
    """Typos, wrong types, values out of range and unknown components come in one go."""
    text = recipe.read_text().replace("samples = 0", "samples = 0\nlr = 1e-4\n[trainer.lora]\nrank = 8")
    text = text.replace("max_steps = 4", 'max_steps = "4"').replace("max_length = 256", "max_length = 3.7")
    recipe.write_text(text.replace('use = "jsonl"', 'use = "jsonll"'))
    found = problems(recipe)
    assert "trainer.lora.rank: unknown key (did you mean r?)" in found
    assert "trainer.lr: unknown key (did you mean learning_rate?)" in found
    assert "formatter.max_length: expected int, got float 3.7" in found
    assert "trainer.max_steps: expected int, got str '4'" in found
    assert any(line.startswith('dataset.use: no dataset named "jsonll"') for line in found)
    assert len(found) == 5


def test_range_problems_of_several_fields_come_together(recipe: Path) -> None:
    """Validators do not stop at the first."""
    found = problems(recipe, "trainer.batch_size=0", "trainer.lora.r=0", "trainer.lora.dropout=1.0")
    assert [line.split(":")[0] for line in found] == [
        "trainer.batch_size",
        "trainer.lora.r",
        "trainer.lora.dropout",
    ]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../up", "/abs", "a\\b", ".hidden", "dot.", "sp ace", "x" * 101, "nul\0"]
)
def test_a_run_name_is_a_plain_file_name(recipe: Path, name: str) -> None:
    """No run name leads out of the outputs folder."""
    layers = read_layers(recipe, environ=False)
    layers.table["run_name"] = name
    with pytest.raises(RecipeError, match="cannot be a folder name"):
        build(layers, REGISTRY)


def test_missing_tables_say_what_to_write(tmp_path: Path) -> None:
    """An empty recipe is answered with what belongs into it."""
    path = tmp_path / "empty.toml"
    path.write_text("")
    found = problems(path)
    assert any('formatter: missing table: write [formatter] with use = "chat-template"' in line for line in found)
    assert any(line.startswith("run_name: missing key") for line in found)


def test_toml_errors_name_line_and_column(tmp_path: Path) -> None:
    """A syntax error is found by its place."""
    path = tmp_path / "broken.toml"
    path.write_text("run_name = 'x'\n[dataset\n")
    with pytest.raises(InputError, match=r"broken\.toml: not TOML: .*line 2, column 9"):
        read_layers(path)


@pytest.mark.parametrize("path", [r"C:\Users\me\rows.jsonl", r"D:\data\rows.jsonl", r"C:\new\table.jsonl"])
def test_a_windows_path_in_double_quotes_is_told_how_to_be_written(path: str, recipe: Path, inside: Cli) -> None:
    """Whether TOML refuses its backslashes as escapes or reads some of them as line breaks and tabs."""
    text = recipe.read_text()
    start = text.index("path = ", text.index("[dataset]"))
    recipe.write_text(text[:start] + f'path = "{path}"\n' + text[text.index("\n", start) + 1 :])
    found = inside("recipe", "check", recipe)
    assert found.returncode == 2
    assert "single quotes" in found.stderr


def test_toml_1_1_is_read_and_1_0_is_written(recipe: Path, inside: Cli) -> None:
    """An inline table over lines, a trailing comma, an escape in hex; `show` writes what the standard library reads."""
    import tomllib

    text = recipe.read_text().replace("samples = 0\n", "samples = 0\nlora = {\n  r = 4, # small\n  alpha = 8,\n}\n")
    recipe.write_text(text.replace('run_name = "tiny"', 'run_name = "\\x74iny"'))
    found = inside("recipe", "show", recipe)
    assert found.returncode == 0, found.stderr
    table = tomllib.loads(found.stdout)
    assert (table["run_name"], table["trainer"]["lora"]["r"], table["trainer"]["lora"]["alpha"]) == ("tiny", 4, 8)
    recipe.write_text(text.replace("alpha = 8,", "alpha 8,"))
    found = inside("recipe", "check", recipe)
    assert found.returncode == 2 and found.stdout == ""
    line = 1 + next(at for at, line in enumerate(text.splitlines()) if "alpha" in line)
    assert "recipe.toml: not TOML: " in found.stderr and f"line {line}, column 9" in found.stderr


def test_precedence(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipe, then .env, then environment, then --set."""
    assert read(recipe, environ=False).run_name == "tiny"
    dotenv = {"RUN_NAME": "dot", "MODEL_ID": "a/dot"}
    assert read(recipe, dotenv=dotenv, environ=False).run_name == "dot"
    monkeypatch.setenv("RUN_NAME", "env")
    found = read(recipe, dotenv=dotenv)
    assert (found.run_name, found.model.id) == ("env", "a/dot")  # type: ignore[attr-defined]
    assert read(recipe, "run_name=word", dotenv=dotenv).run_name == "word"


def test_environment_reaches_the_exporters_by_name(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ADAPTER_OUTPUT_DIR and MERGED_OUTPUT_DIR set `out`, relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGED_OUTPUT_DIR", "m")
    adapter, merged = read(recipe).exporter
    assert (adapter.out, merged.out) == (None, tmp_path / "m")  # type: ignore[attr-defined]


def test_extends_merges_key_by_key_and_starts_afresh_with_another_component(recipe: Path, tmp_path: Path) -> None:
    """Paths of a base start from the base's folder; a table with a new `use` drops the base's options."""
    sub = tmp_path / "sub"
    sub.mkdir()
    child = sub / "child.toml"
    child.write_text('extends = "../recipe.toml"\nrun_name = "child"\n[trainer.lora]\nr = 2\n')
    found = read(child, environ=False)
    assert found.dataset.path == tmp_path / "rows.jsonl"  # type: ignore[attr-defined]
    assert (found.run_name, found.trainer.max_steps, found.trainer.lora.r) == ("child", 4, 2)  # type: ignore[attr-defined]
    child.write_text('extends = "../recipe.toml"\n[dataset]\nuse = "hub"\nid = "a/b"\n')
    assert read(child, environ=False).dataset.name == "hub"


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    """Two files that extend each other are told so."""
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(InputError, match="extends itself"):
        read_layers(tmp_path / "a.toml")


def test_set_reaches_list_items_and_takes_words_unquoted(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--set exporter.1.out=there` and bare words work; paths start from the working folder."""
    monkeypatch.chdir(tmp_path)
    found = read(recipe, "exporter.1.out=there", 'trainer.lora.target_modules=["q_proj"]', "dataset.path=other.jsonl")
    assert found.exporter[1].out == tmp_path / "there"  # type: ignore[attr-defined]
    assert found.trainer.lora.target_modules == ("q_proj",)  # type: ignore[attr-defined]
    assert found.dataset.path == tmp_path / "other.jsonl"  # type: ignore[attr-defined]


@pytest.mark.parametrize("setting", ["nothing", "=1", "run_name.x=1", "exporter.7.out=x"])
def test_a_setting_that_leads_nowhere_is_refused(recipe: Path, setting: str) -> None:
    """A wrong --set is the user's input, and is named."""
    with pytest.raises(InputError, match=re.escape(setting)):
        read_layers(recipe, [setting])


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_shipped_recipes_are_right_and_commented(path: Path) -> None:
    """Each recipe we ship can be run as it stands, opens with its command, and explains itself."""
    read(path, environ=False)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert f"loraplug run recipes/{path.name}" in "\n".join(lines[:8])
    assert sum("#" in line for line in lines) >= 10


def test_a_resolved_recipe_is_a_recipe_again(recipe: Path, tmp_path: Path) -> None:
    """Writing every default out and reading it back gives the same components, wherever the file lies."""
    import tomli_w

    found = read(recipe, environ=False)
    table = as_table(found, REGISTRY)
    assert table["dataset"]["path"] == "rows.jsonl"
    again = tmp_path / "elsewhere" / "again.toml"
    again.parent.mkdir()
    again.write_text(tomli_w.dumps({**table, "lock": {"folder": str(recipe.parent)}}))
    same = read(again)
    assert (same.dataset, same.formatter, same.model, same.trainer, same.exporter, same.validation) == (
        (found.dataset, found.formatter, found.model, found.trainer, found.exporter, found.validation)
    )


def test_a_lock_file_does_not_listen_to_the_environment(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a [lock] table is complete."""
    recipe.write_text(recipe.read_text() + f"[lock]\nfolder = '{recipe.parent}'\n")
    monkeypatch.setenv("RUN_NAME", "env")
    assert read(recipe, dotenv={"MODEL_ID": "dot/env"}).run_name == "tiny"


@frozen
class Inner:
    """A table."""

    number: Annotated[float, Doc("a number")] = field(default=1.0, validator=validators.gt(0))
    names: Annotated[tuple[str, ...], Doc("names")] = ()


@frozen
class Every(DatasetSource):
    """One option of every type."""

    name = "every"
    word: Annotated[str, Doc("a word")]
    count: Annotated[int, Doc("a count")] = 1
    flag: Annotated[bool, Doc("a flag")] = False
    path: Annotated[Path | None, Doc("a path")] = None
    choice: Annotated[Literal["auto", "on"] | int, Doc("a choice")] = "auto"
    inner: Annotated[Inner, Doc("a table")] = field(factory=Inner)
    ranks: Annotated[dict[str, int], Doc("by name")] = field(factory=dict)

    def load(self, run: Run) -> Any:
        """Rows."""


def test_options_describe_themselves() -> None:
    """Names, types and defaults as a recipe author reads them."""
    shown = {option.name: (option.type_name, option.required) for option in options(Every)}
    assert shown["word"] == ("str", True)
    assert shown["path"] == ("path", False)
    assert shown["choice"] == ('"auto" | "on" | int', False)
    assert shown["ranks"] == ("table of int", False)
    assert next(option.nested for option in options(Every) if option.name == "inner") is Inner


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("auto")
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
keys = st.sampled_from(["word", "count", "flag", "path", "choice", "inner", "ranks"]) | st.text(max_size=6)


@given(st.dictionaries(keys, values, max_size=8))
def test_any_table_is_taken_strictly_or_answered_with_problems(table: dict[str, Any]) -> None:
    """Whatever stands in a table: an object with the values that were written, or at least one problem."""
    made, found = structure(Every, table, "dataset")
    assert (made is None) == bool(found)
    if made is not None:
        assert set(table) <= {option.name for option in options(Every)}
        assert type(made.count) is int
        assert type(made.flag) is bool
        assert made.count == table.get("count", 1)
    assert all(problem.path.startswith("dataset") for problem in found)
