"""Plugins found, refused, broken and confused."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest
from attrs import frozen

import loraplug
from loraplug import DatasetSource, Doc, PluginError, Registry, Run, load_registry


@frozen
class Words(DatasetSource):
    """Rows of words."""

    name = "words"
    count: Annotated[int, Doc("how many")] = 1

    def load(self, run: Run) -> Any:
        """Rows."""


def plugin(**hooks: Any) -> ModuleType:
    """A plugin module with these hooks, each returning the given list."""
    module = ModuleType("a_plugin")
    for name, found in hooks.items():

        def hook(found: Any = found) -> Any:
            return found() if callable(found) else found

        hook.__name__ = name
        setattr(module, name, loraplug.hookimpl(_no_arguments(hook)))
    return module


def _no_arguments(function: Any) -> Any:
    def hook() -> Any:
        return function()

    hook.__name__ = function.__name__
    return hook


def registry(*plugins: tuple[str, Any]) -> Registry:
    return load_registry(plugins, installed=False)


def test_a_component_is_found_by_name_and_by_distribution() -> None:
    """`use = "words"` and `use = "shop:words"` both mean the one class."""
    found = registry(("shop", plugin(loraplug_dataset_sources=[Words])))
    assert found.find("dataset", "words") is Words
    assert found.find("dataset", "shop:words") is Words


def test_an_unknown_name_tells_the_nearest_and_what_there_is() -> None:
    """A misspelt `use` is answered with what was meant."""
    with pytest.raises(PluginError, match=r'no dataset named "wrods" .*did you mean words\?.*installed: words'):
        registry(("shop", plugin(loraplug_dataset_sources=[Words]))).find("dataset", "wrods")


def test_one_name_from_two_distributions_names_both() -> None:
    """A duplicate name is an error until the recipe says which."""
    twice = registry(
        ("shop", plugin(loraplug_dataset_sources=[Words])), ("stall", plugin(loraplug_dataset_sources=[Words]))
    )
    with pytest.raises(PluginError, match=r'use = "shop:words" or use = "stall:words"'):
        twice.find("dataset", "words")
    assert twice.find("dataset", "stall:words") is Words


def test_a_misspelt_hook_breaks_its_plugin_alone() -> None:
    """The others still work; the broken one says which hook was meant."""
    found = registry(
        ("bad", plugin(loraplug_dataset_source=[Words])), ("good", plugin(loraplug_dataset_sources=[Words]))
    )
    bad, good = found.plugins
    assert (bad.status, good.status) == ("broken", "ok")
    assert bad.reason == "unknown hook loraplug_dataset_source (did you mean loraplug_dataset_sources?)"
    assert found.find("dataset", "words") is Words


def test_a_recipe_that_needs_a_broken_plugin_is_told_why() -> None:
    """What a broken plugin would have brought is unknown, so its reason stands in the error."""

    def explode() -> Sequence[type]:
        raise ImportError("no module named gpu_magic")

    with pytest.raises(PluginError, match=r"plugin bad .* is broken: ImportError: no module named gpu_magic"):
        registry(("bad", plugin(loraplug_dataset_sources=explode))).find("dataset", "magic")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([object], "is not a DatasetSource class"),
        ([Words()], "is not a DatasetSource class"),
        ([type("Bare", (DatasetSource,), {"name": "bare", "load": len})], "is not an attrs class"),
        ([frozen(type("Idle", (DatasetSource,), {"name": "idle"}))], "lacks load"),
        ([frozen(type("Odd", (DatasetSource,), {"name": "A b", "load": len}))], "name must be lower-case"),
    ],
)
def test_a_bad_component_breaks_its_plugin(found: list[Any], reason: str) -> None:
    """What is no component is refused with the reason, when the registry is built."""
    (bad,) = registry(("bad", plugin(loraplug_dataset_sources=found))).plugins
    assert bad.status == "broken"
    assert reason in str(bad.reason)


def test_a_disabled_plugin_stays_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """LORAPLUG_DISABLE leaves a plugin out, and says so; a name that no plugin has is listed as well."""
    monkeypatch.setenv("LORAPLUG_DISABLE", "shop, other")
    found = registry(("shop", plugin(loraplug_dataset_sources=[Words])))
    assert [(one.name, one.status) for one in found.plugins] == [("shop", "disabled"), ("other", "disabled")]
    assert found.plugins[0].reason == "named in LORAPLUG_DISABLE"
    assert found.plugins[1].reason == "named in LORAPLUG_DISABLE, but not installed"
    assert not found.entries


def test_an_entry_point_that_raises_at_import_is_listed_as_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real entry points: one module exits the interpreter at import, and the built-ins still load."""
    (tmp_path / "rude.py").write_text("raise SystemExit('not today')\n")
    info = tmp_path / "rude-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: rude\nVersion: 2.5\nProject-URL: Issues, https://x.test\n"
    )
    (info / "entry_points.txt").write_text("[loraplug]\nrude = rude\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = load_registry()
    monkeypatch.delitem(sys.modules, "rude", raising=False)
    rude = next(item for item in found.plugins if item.name == "rude")
    assert (rude.distribution, rude.version, rude.status, rude.url) == ("rude", "2.5", "broken", "https://x.test")
    assert rude.reason == "SystemExit: not today"
    assert found.find("formatter", "chat-template").name == "chat-template"
