"""Components in components: tables with a `use` of their own, as strict and as well known as the rest."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import pytest
from attrs import field, frozen, validators

import loraplug
from loraplug import (
    DatasetSource,
    Doc,
    Problem,
    Recipe,
    Registry,
    Run,
    Trainer,
    Transform,
    as_table,
    build,
    held,
    load_registry,
    options,
)
from loraplug.errors import RecipeError
from loraplug.pipeline.pipeline import Pipeline
from loraplug.recipe.layers import read_layers
from loraplug_tools.plugins.listing import show_plugin


@frozen
class Inner:
    """A table with a component in it."""

    source: Annotated[DatasetSource | None, Doc("a source, if any")] = None
    share: Annotated[float, Doc("a share")] = field(default=0.5, validator=validators.lt(1))


@frozen
class Leaf(DatasetSource):
    """A source that a `check` finds fault with."""

    name = "leaf"
    path: Annotated[Path | None, Doc("a file")] = None
    paths: Annotated[tuple[Path, ...], Doc("files")] = ()
    size: Annotated[int, Doc("a size")] = field(default=1, validator=validators.ge(1))

    def check(self, recipe: Recipe) -> list[Problem]:
        """A size of 13 is one problem."""
        return [Problem("leaf.size", f"13 brings bad luck to {recipe.run_name}")] if self.size == 13 else []

    def load(self, run: Run) -> Any:
        """Nothing."""


@frozen
class Holder(DatasetSource):
    """A source that holds others, in every way there is."""

    name = "holder"
    sources: Annotated[tuple[DatasetSource, ...], Doc("sources")] = ()
    one: Annotated[DatasetSource | None, Doc("one source")] = None
    inner: Annotated[Inner, Doc("a table")] = field(factory=Inner)
    inners: Annotated[tuple[Inner, ...], Doc("tables")] = ()
    named: Annotated[dict[str, DatasetSource], Doc("by name")] = field(factory=dict)
    trainer: Annotated[Trainer | None, Doc("of another kind")] = None
    transforms: Annotated[tuple[Transform, ...], Doc("transforms")] = field(factory=tuple)
    default: Annotated[DatasetSource, Doc("has a default")] = field(factory=Leaf)

    def load(self, run: Run) -> Any:
        """Nothing."""


class Brings:
    """The plugin."""

    @staticmethod
    @loraplug.hookimpl
    def loraplug_dataset_sources() -> list[type[DatasetSource]]:
        """Two."""
        return [Leaf, Holder]


@pytest.fixture(scope="module")
def registry() -> Registry:
    """Everything that is installed, and the holder."""
    found = load_registry([("brings", Brings)])
    assert found.named("holder"), found.plugins[-1]
    return found


HEAD = """
run_name = "held"
[formatter]
use = "chat-template"
[model]
use = "transformers"
id = "some/model"
[trainer]
use = "sft"
"""


def made(folder: Path, registry: Registry, text: str, *settings: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(HEAD + text, encoding="utf-8")
    return build(read_layers(path, settings, environ=False), registry)


WHOLE = """
[dataset]
use = "holder"
[dataset.one]
use = "leaf"
path = "one.txt"
paths = ["a", "b"]
[dataset.inner.source]
use = "leaf"
path = "inner.txt"
[[dataset.sources]]
use = "brings:leaf"
[[dataset.sources]]
use = "jsonl"
path = ["x.jsonl", "y.jsonl"]
[[dataset.inners]]
share = 0.25
source = { use = "leaf", size = 2 }
[dataset.named.first]
use = "leaf"
path = "../named.txt"
[dataset.trainer]
use = "sft"
[[dataset.transforms]]
use = "shuffle"
seed = 3
"""


def test_everything_is_built_where_it_stands(tmp_path: Path, registry: Registry) -> None:
    """In lists, tables, lists of tables, mappings, of any kind; paths start from the recipe."""
    holder = made(tmp_path, registry, WHOLE, "dataset.sources.0.size=7").dataset
    assert isinstance(holder, Holder)
    assert holder.one == Leaf(tmp_path / "one.txt", (tmp_path / "a", tmp_path / "b"))
    assert holder.inner.source == Leaf(tmp_path / "inner.txt")
    assert [source.name for source in holder.sources] == ["leaf", "jsonl"]
    assert getattr(holder.sources[0], "size", 0) == 7
    assert getattr(holder.sources[1], "path", ()) == (tmp_path / "x.jsonl", tmp_path / "y.jsonl")
    assert holder.inners[0].source == Leaf(size=2)
    assert holder.named["first"] == Leaf(tmp_path.parent / "named.txt")
    assert holder.trainer is not None
    assert [part.name for part in holder.transforms] == ["shuffle"]
    assert len([*held(holder)]) == 9


def test_it_can_be_written_out_and_read_again(tmp_path: Path, registry: Registry) -> None:
    """With every default, and paths relative to the recipe: what a lock file holds."""
    import tomli_w

    recipe = made(tmp_path, registry, WHOLE)
    table = as_table(recipe, registry)
    assert table["dataset"]["one"]["path"] == "one.txt"
    assert table["dataset"]["named"]["first"]["path"] == "../named.txt"
    assert table["dataset"]["default"] == {"use": "leaf", "paths": [], "size": 1}
    assert table["dataset"]["trainer"]["use"] == "sft"
    path = tmp_path / "again.toml"
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    assert build(read_layers(path, environ=False), registry).dataset == recipe.dataset
    assert tomllib.loads(path.read_text())["dataset"] == table["dataset"]


def test_all_problems_at_once_with_their_places(tmp_path: Path, registry: Registry) -> None:
    """No `use`, an unknown one, one of another kind, one inside itself, and what is wrong inside."""
    text = """
[dataset]
use = "holder"
sources = [{ path = "x" }, { use = "laef" }, { use = "chat-template" }, 3, { use = "leaf", siez = 1, paths = [1] }]
inners = [{ share = 2 }, { source = { use = "leaf", size = 0 } }]
named = { a = { use = "holder", one = { use = "leaf" } } }
one = "leaf"
wrong = 1
"""
    with pytest.raises(RecipeError) as caught:
        made(tmp_path, registry, text)
    told = {problem.path: problem.message for problem in caught.value.problems}
    assert told["dataset.sources[0].use"].startswith("missing key: write use = ")
    assert 'no dataset named "laef" is installed (did you mean leaf' in told["dataset.sources[1].use"]
    assert '"chat-template" is a formatter' in told["dataset.sources[2].use"]
    assert told["dataset.sources[3]"].startswith("expected a table with use = ")
    assert told["dataset.sources[4].siez"] == "unknown key (did you mean size?)"
    assert told["dataset.sources[4].paths[0]"].startswith("expected path, got int 1")
    assert "must be >= 1" in told["dataset.inners[1].source.size"]
    assert '"holder" contains itself' in told["dataset.named.a.use"]
    assert told["dataset.one"].startswith("expected dataset table, got str")
    assert told["dataset.wrong"].startswith("unknown key")


def test_validators_in_lists_and_mappings_of_tables_are_run(tmp_path: Path, registry: Registry) -> None:
    """Each with its index or its key."""
    with pytest.raises(RecipeError, match=r"dataset\.inners\[1\]\.share: 'share' must be < 1"):
        made(tmp_path, registry, '[dataset]\nuse = "holder"\ninners = [{ share = 0.1 }, { share = 2.0 }]')


def test_what_is_inside_is_asked_by_check(tmp_path: Path, registry: Registry) -> None:
    """As any component is."""
    text = '[dataset]\nuse = "holder"\ninner.source = { use = "leaf", size = 13 }'
    with pytest.raises(RecipeError, match=r"leaf\.size: 13 brings bad luck to held"):
        made(tmp_path, registry, text)


def test_preflight_tells_the_place_inside(tmp_path: Path, registry: Registry) -> None:
    """A source knows itself as `dataset`; its problem is told where it stands."""
    text = '[dataset]\nuse = "holder"\nsources = [{ use = "leaf" }, { use = "jsonl", path = "none.jsonl" }]'
    recipe = made(tmp_path, registry, text)
    run = Run("held", outputs=tmp_path / "outputs", cache=tmp_path / "cache")
    with pytest.raises(RecipeError) as error:
        Pipeline(recipe, registry, run).preflight("dataset")
    assert [problem.path for problem in error.value.problems] == ["dataset.sources[1].path"]


def test_a_disabled_plugin_is_not_there_inside_either(tmp_path: Path, registry: Registry) -> None:
    """`[plugins] disable` is for the whole recipe."""
    text = '[plugins]\ndisable = ["data"]\n[dataset]\nuse = "holder"\none = { use = "jsonl", path = "x" }'
    with pytest.raises(RecipeError, match=r'dataset\.one\.use: no dataset named "jsonl".*data .* is disabled'):
        made(tmp_path, registry, text)


def test_page_and_schema_tell_of_them(registry: Registry) -> None:
    """What kind stands there; and the schema takes what the builder takes, with no transforms inside."""
    import jsonschema

    from loraplug_tools.recipes.schema import schema

    page = show_plugin(registry, "holder", as_json=False)
    assert "sources  (list of dataset table)  = []" in page
    assert 'default  (dataset table)  = { use = "leaf", paths = [], size = 1 }' in page
    assert {option.name for option in options(Holder) if option.holds} >= {"sources", "one", "default", "trainer"}
    checker = jsonschema.Draft202012Validator(schema(registry))
    transform = '[[dataset.transform]]\nuse = "sample"\nrows = 1\n'
    assert not [*checker.iter_errors(tomllib.loads(HEAD + WHOLE + transform))]
    for wrong in (
        WHOLE.replace('use = "brings:leaf"', 'use = "brings:laef"'),
        WHOLE.replace("size = 2", "siez = 2"),
        WHOLE.replace('use = "jsonl"', 'use = "jsonl"\ntransform = []'),
        WHOLE + transform.replace("sample", "smaple"),
    ):
        assert [*checker.iter_errors(tomllib.loads(HEAD + wrong))], wrong
