"""Plugins are found as `importlib.metadata` finds them; what comes second on the path is told of."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from loraplug.plugin.installed import installed

ENTRY_POINTS = """\
[console_scripts]
loraplug-x = elsewhere:main

[loraplug]
# a comment
shop = shop_plugin
 spaced.name  =  shop_plugin.deep : Things.inner  [extra]

[other]
shop = nothing
"""


def _same_as_importlib() -> None:
    theirs = {(p.name, p.dist.name, p.dist.version) for p in metadata.entry_points(group="loraplug") if p.dist}
    ours = [plugin for plugin, _ in installed() if plugin.status == "ok"]
    assert {(plugin.name, plugin.distribution, plugin.version) for plugin in ours} == theirs


def test_what_is_installed_here_is_found() -> None:
    """The built-in plugins, by the very names the standard library gives."""
    assert len(installed()) > 5
    _same_as_importlib()


def test_every_way_of_writing_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects, extras, comments, spaces; of one distribution found twice on the path, the first counts."""
    for folder, info, version in (("a", "My.Shop-2.0.dist-info", "2.0"), ("b", "my_shop-1.0.dist-info", "1.0")):
        place = tmp_path / folder / info
        place.mkdir(parents=True)
        head = f"Metadata-Version: 2.4\nName: My.Shop\nVersion: {version}\nProject-URL: Issues, https://x.example/i\n"
        (place / "METADATA").write_text(head + "\nVersion: 9 is only said in the description\n")
        (place / "entry_points.txt").write_text(ENTRY_POINTS)
        monkeypatch.syspath_prepend(tmp_path / folder)
    monkeypatch.syspath_prepend(tmp_path / "a")
    monkeypatch.syspath_prepend(tmp_path / "not there")
    (tmp_path / "a" / "shop_plugin").mkdir()
    (tmp_path / "a" / "shop_plugin" / "__init__.py").write_text("")
    (tmp_path / "a" / "shop_plugin" / "deep.py").write_text("class Things:\n    inner = 'here'\n")
    _same_as_importlib()
    both = [(plugin, load) for plugin, load in installed() if plugin.distribution == "My.Shop"]
    second = {(p.version, p.status, p.reason) for p, _ in both if p.status != "ok"}
    assert second == {("1.0", "shadowed", "My.Shop 2.0 comes before it on the path")}
    mine = {plugin.name: (plugin, load) for plugin, load in both if plugin.status == "ok"}
    assert mine.keys() == {"shop", "spaced.name"}
    plugin, load = mine["spaced.name"]
    assert (plugin.version, plugin.url, load()) == ("2.0", "https://x.example/i", "here")
    assert mine["shop"][1]().__name__ == "shop_plugin"
