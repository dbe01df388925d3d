"""`loraplug recipe`: show --resolved, diff, schema, init."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from command import ROOT, Cli
from loraplug import load_registry
from loraplug_tools.recipes.schema import schema

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


def test_show_resolved_tells_where_each_value_came_from(recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """File, base, .env, environment, --set, a variable, default."""
    (tmp_path / ".env").write_text("MODEL_ID=from/dotenv\n")
    recipe.write_text(recipe.read_text().replace('"rows.jsonl"', '"${ROWS}.jsonl"'))
    child = tmp_path / "child.toml"
    child.write_text('extends = "recipe.toml"\nseed = 7\n')
    words = ["recipe", "show", child, "--resolved", "--set", "trainer.lora.r=3"]
    env = {"RUN_NAME": "from-env", "ROWS": "rows"}
    done = loraplug(*words, "--json", env=env)
    assert done.returncode == 0, done.stderr
    found = {one["key"]: (one["value"], one["from"]) for one in json.loads(done.stdout)}
    assert found["seed"] == (7, "file:child.toml")
    assert found["trainer.max_steps"] == (4, "file:recipe.toml")
    assert found["dataset.path"] == ("rows.jsonl", "file:recipe.toml ${ROWS}")
    assert found["model.id"] == ("from/dotenv", ".env MODEL_ID")
    assert found["run_name"] == ("from-env", "environment RUN_NAME")
    assert found["trainer.lora.r"] == (3, "--set")
    assert found["trainer.lora.alpha"][1] == "default"
    assert found["exporter.1.use"] == ("merged", "file:recipe.toml")
    lines = loraplug(*words, env=env).stdout.splitlines()
    assert [line.split() for line in lines if line.startswith("trainer.lora.r ")] == [
        ["trainer.lora.r", "=", "3", "#", "--set"]
    ]
    assert len(lines) == len(found)


def test_diff_compares_what_recipes_come_to(recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """A default written out is no difference; a default that differs is marked; exporters go by name."""
    other = tmp_path / "other.toml"
    other.write_text('extends = "recipe.toml"\nseed = 42\n[trainer]\nuse = "sft"\n[[exporter]]\nuse = "merged"\n')
    done = loraplug("recipe", "diff", recipe, other)
    assert done.returncode == 0, done.stderr
    assert "seed" not in done.stdout
    assert "trainer.learning_rate\n  A  0.01\n" in loraplug("recipe", "diff", recipe, _plain(tmp_path)).stdout
    data = {one["key"]: one for one in json.loads(loraplug("recipe", "diff", recipe, other, "--json").stdout)}
    assert data.keys() == {"exporter.adapter.use", "exporter.adapter.prove"}
    assert data["exporter.adapter.use"]["a"]["value"] == "adapter"
    assert data["exporter.adapter.use"]["b"]["value"] is None
    assert loraplug("recipe", "diff", recipe, recipe).stdout == "no difference\n"


def _plain(folder: Path) -> Path:
    text = (folder / "recipe.toml").read_text().replace("learning_rate = 1e-2\n", "")
    (folder / "plain.toml").write_text(text)
    return folder / "plain.toml"


def test_diff_marks_defaults(recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """So that one sees which side said nothing."""
    told = loraplug("recipe", "diff", recipe, _plain(tmp_path)).stdout
    assert "trainer.learning_rate\n  A  0.01\n  B  0.0005 (default)\n" in told


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    found = schema(load_registry())
    jsonschema.Draft202012Validator.check_schema(found)
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def _errors(made: dict[str, Any], table: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(made).iter_errors(table)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipes_follow_the_schema(made: dict[str, Any], path: Path, loraplug: Cli) -> None:
    """As they stand, and with every default written out."""
    assert _errors(made, tomllib.loads(path.read_text(encoding="utf-8"))) == []
    assert _errors(made, tomllib.loads(loraplug("recipe", "show", path).stdout)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.epoch", 1),
        ("trainer.lora.rank", 1),
        ("trainer.epochs", "3"),
        ("formatter.overlong", "truncate"),
        ("dataset.use", "sweet"),
        ("quantiser", {"use": "bitsandbytes"}),
        ("validation.fractions", 0.1),
        ("model.id", None),
    ],
)
def test_the_schema_refuses_what_check_refuses(made: dict[str, Any], key: str, value: Any) -> None:
    """A misspelt key at any depth, a wrong type, a word that is no choice, something required left out."""
    table = tomllib.loads((ROOT / "recipes" / "swe_qlora.toml").read_text(encoding="utf-8"))
    *way, last = key.split(".")
    at = table
    for name in way:
        at = at[name]
    if value is None:
        del at[last]
    else:
        at[last] = value
    assert _errors(made, table)


def test_a_recipe_that_extends_may_leave_use_out(made: dict[str, Any]) -> None:
    """But still not misspell a key."""
    assert _errors(made, {"extends": "base.toml", "trainer": {"lora": {"r": 4}}}) == []
    assert _errors(made, {"extends": "base.toml", "trainer": {"lora": {"rank": 4}}})
    assert _errors(made, {"run_name": "x"})


def test_every_option_of_the_schema_is_described(made: dict[str, Any]) -> None:
    """An editor has something to show for every key; the built-in plugins document every option."""
    described = list(_described(made, ()))
    assert len(described) > 100
    assert [place for place, text in described if not text] == []


def _described(node: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str | None]]:
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _described(item, (*place, str(index)))
    elif isinstance(node, dict):
        for key, item in node.items():
            if key == "if":  # a condition, no place for an option
                continue
            if key == "properties":
                for name, option in item.items():
                    if "$ref" not in option:
                        yield (*place, name), option.get("description")
            yield from _described(item, (*place, key))


def test_the_schema_does_not_depend_on_the_environment(loraplug: Cli, tmp_path: Path) -> None:
    """Two machines with the same plugins make the same file; it holds no path of either."""
    loraplug("recipe", "schema", "-o", "schema.json")
    text = (tmp_path / "schema.json").read_text(encoding="utf-8")
    moved = loraplug("recipe", "schema", env={"HOME": str(tmp_path), "MODEL_ID": "a/b", "LORAPLUG_CACHE": "/c"})
    assert moved.stdout == text
    assert str(tmp_path) not in text
    assert os.sep + "home" not in text


@pytest.mark.parametrize("purpose", ["swe", "chat", "text"])
def test_init_writes_a_recipe_that_checks(purpose: str, loraplug: Cli, tmp_path: Path, made: dict[str, Any]) -> None:
    """Commented, its gaps marked, after the schema; what is there is never overwritten."""
    done = loraplug("recipe", "init", "--for", purpose, "-o", "mine.toml")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "mine.toml").read_text(encoding="utf-8")
    assert loraplug("recipe", "check", "--options", "mine.toml").returncode == 0
    assert _errors(made, tomllib.loads(text)) == []
    assert text.count("<--") == 3
    assert sum("#" in line for line in text.splitlines()) > 15
    assert max(map(len, text.splitlines())) <= 120
    again = loraplug("recipe", "init", "--for", "chat", "-o", "mine.toml")
    assert again.returncode == 2
    assert "mine.toml: already exists" in again.stderr
    assert (tmp_path / "mine.toml").read_text(encoding="utf-8") == text
    assert loraplug("recipe", "init", "--for", purpose, "-o", "-").stdout.startswith("# ")
