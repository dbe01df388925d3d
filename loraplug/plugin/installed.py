"""Which plugins are installed, as the metadata of every distribution on `sys.path` says.

One that cannot be read, or comes behind another version of itself, is kept with the reason: nothing vanishes, and
nothing unrelated can keep the command line from starting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

GROUP = "loraplug"
_LINKS = ("Issues", "Bug Tracker", "Homepage", "Repository")


@frozen
class Plugin:
    """One entry point: its name, the distribution that brought it, and whether it works.

    Attributes:
        status: "ok", "broken" (it fails), "incompatible" (it was made for another plugin API), "unreadable" (its
            metadata is), "shadowed" (another version comes first on the path) or "disabled".
        reason: why it is not "ok".
        module: what its entry point imports.
        notes: what is odd about one that works, such as that it prints.
        seconds: how long it took to load.
    """

    name: str
    distribution: str
    version: str
    url: str | None = None
    status: str = "ok"
    reason: str | None = None
    module: str = field(default="", eq=False)
    notes: tuple[str, ...] = field(default=(), eq=False)
    seconds: float = field(default=0.0, eq=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"

    @property
    def fails(self) -> bool:
        """Whether it is its makers who are to hear of it."""
        return self.status in ("broken", "incompatible", "unreadable")


def installed() -> list[tuple[Plugin, Callable[[], Any]]]:
    """Every plugin with what loads its module, by name; of a distribution found twice, the first on the path counts."""
    found: dict[tuple[str, str, str], tuple[Plugin, Callable[[], Any]]] = {}
    for distribution in metadata.distributions():
        for plugin, load in _plugins(distribution):
            found.setdefault((plugin.distribution, plugin.version, plugin.name), (plugin, load))
    return sorted(found.values(), key=lambda pair: (pair[0].name, pair[0].status != "ok"))


def _plugins(distribution: metadata.Distribution) -> Iterator[tuple[Plugin, Callable[[], Any]]]:
    try:
        text = distribution.read_text("entry_points.txt") or ""
    except (UnicodeDecodeError, OSError) as error:
        for name, version in _folder_names(distribution, "entry_points.txt"):
            reason = f"its entry_points.txt cannot be read ({error}): whether it brings plugins is unknown"
            yield Plugin(name, name, version, status="unreadable", reason=reason), _nothing
        return
    if f"[{GROUP}]" not in text:
        return
    known = _head(distribution)
    try:
        points = [*distribution.entry_points.select(group=GROUP)]
    except Exception as error:  # what it raises for a line that is none has no documented type
        reason = f"its entry_points.txt has a line that is not NAME = MODULE ({error})"
        yield evolve(known, name=known.distribution, status="unreadable", reason=reason), _nothing
        return
    for point in points:
        yield evolve(known, name=point.name, module=point.value.partition(":")[0].strip()), point.load


def _head(distribution: metadata.Distribution) -> Plugin:
    """What the metadata says of every plugin of a distribution."""
    head, reason = None, "its distribution has no METADATA file"
    try:
        if distribution.read_text("METADATA") or distribution.read_text("PKG-INFO"):
            head, reason = distribution.metadata, "its METADATA has no Name or no Version"
    except (UnicodeDecodeError, OSError) as error:
        reason = f"its METADATA cannot be read ({error})"
    if head is None or not (head["Name"] and head["Version"]):
        name, version = next(iter(_folder_names(distribution, "METADATA")), ("unknown", "0"))
        return Plugin("", name, version, status="unreadable", reason=f"{reason}: install it again")
    urls = dict(str(link).split(", ", 1) for link in head.get_all("Project-URL") or () if ", " in str(link))
    url = next((urls[key] for key in _LINKS if key in urls), None)
    plugin = Plugin("", head["Name"], head["Version"], url)
    try:
        first = metadata.version(plugin.distribution)
    except (UnicodeDecodeError, OSError):
        first = "with metadata that cannot be read"
    if first == plugin.version:
        return plugin
    return evolve(plugin, status="shadowed", reason=f"{plugin.distribution} {first} comes before it on the path")


def _folder_names(distribution: metadata.Distribution, file: str) -> Iterator[tuple[str, str]]:
    """Name and version of the distributions beside this one whose file is missing or is not UTF-8, by their folders."""
    for info in sorted(Path(str(distribution.locate_file(""))).glob("*-info")):
        try:
            sound = bool((info / file).read_bytes().decode("utf-8"))
        except (UnicodeDecodeError, OSError):
            sound = file == "entry_points.txt" and not (info / file).exists()
        if not sound:
            parts = re.fullmatch(r"(.+?)-(\d[^-]*).*", info.stem)
            name, version = parts.groups() if parts else (info.stem, "0")
            yield re.sub(r"[-_.]+", "-", name).lower(), version


def _nothing() -> None:
    return None
