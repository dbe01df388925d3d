"""Which plugins are installed, read from the metadata of every distribution on `sys.path`.

`importlib.metadata` knows this too, but importing it and its scan took a fifth of the time of `loraplug --help`. The
files are those of PyPA's specifications "recording installed projects" and "entry points".
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from attrs import frozen

GROUP = "loraplug"


@frozen
class Plugin:
    """One entry point: its name, the distribution that brought it, and whether it works."""

    name: str
    distribution: str
    version: str
    url: str | None = None
    status: str = "ok"
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


def installed() -> list[tuple[Plugin, Callable[[], Any]]]:
    """Every plugin with what loads its module, by name; of a distribution found twice, the first on the path counts."""
    places: dict[str, Path] = {}
    for folder in map(Path, sys.path):
        for info in folder.iterdir() if folder.is_dir() else ():
            if info.suffix in (".dist-info", ".egg-info"):
                places.setdefault(re.sub(r"[-_.]+", "-", info.stem.split("-")[0]).lower(), info)
    found = [pair for info in places.values() for pair in _plugins(info)]
    return sorted(found, key=lambda pair: pair[0].name)


def _plugins(info: Path) -> Iterator[tuple[Plugin, Callable[[], Any]]]:
    group = re.search(rf"^\[{GROUP}\]\n(.*?)(?=^\[|\Z)", _text(info / "entry_points.txt"), re.M | re.S)
    if group is None:
        return
    head = (_text(info / "METADATA") or _text(info / "PKG-INFO")).split("\n\n", 1)[0]
    name, version = (re.search(rf"^{key}: (.*)$", head, re.M) for key in ("Name", "Version"))
    urls = dict(re.findall(r"^Project-URL: (.*?), (.*)$", head, re.M))
    url = next((urls[key] for key in ("Issues", "Bug Tracker", "Homepage", "Repository") if key in urls), None)
    for point, place in re.findall(r"^[ \t]*([^#=\n]+?)[ \t]*=([^\[\n]*)", group[1], re.M):
        plugin = Plugin(point, name[1] if name else "unknown", version[1] if version else "0", url)
        yield plugin, partial(_load, *place.replace(" ", "").partition(":")[::2])


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _load(module: str, attribute: str) -> Any:
    found = import_module(module)
    return attrgetter(attribute)(found) if attribute else found
