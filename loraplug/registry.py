"""Finds plugins and keeps who brought what. Broken plugins stay visible and take nothing down with them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from loraplug import hookspecs
from loraplug.components import KINDS, Component
from loraplug.context import Event
from loraplug.diagnostics import Diagnostic
from loraplug.errors import PluginError
from loraplug.installed import Plugin
from loraplug.installed import installed as on_path

if TYPE_CHECKING:
    import click

HOOKS = {
    "loraplug_dataset_sources": "dataset",
    "loraplug_formatters": "formatter",
    "loraplug_model_loaders": "model",
    "loraplug_quantizers": "quantizer",
    "loraplug_trainers": "trainer",
    "loraplug_exporters": "exporter",
}
_OTHER_HOOKS = ("loraplug_commands", "loraplug_events", "loraplug_diagnostics")


@attrs.frozen
class Entry:
    """One component class and the plugin it came with."""

    cls: type[Component]
    plugin: Plugin

    @property
    def kind(self) -> str:
        """The recipe table it is for."""
        return self.cls.kind

    @property
    def name(self) -> str:
        """What a recipe's `use` says."""
        return self.cls.name

    @property
    def full_name(self) -> str:
        """`distribution:name`, which names one component even where two distributions use one name."""
        return f"{self.plugin.distribution}:{self.name}"


@attrs.frozen
class Registry:
    """Everything installed."""

    plugins: tuple[Plugin, ...]
    entries: tuple[Entry, ...]
    commands: tuple[tuple[click.Command, Plugin], ...] = ()
    observers: tuple[tuple[Callable[[Event], None], Plugin], ...] = ()
    diagnostics: tuple[tuple[Diagnostic, Plugin], ...] = ()

    def of_kind(self, kind: str) -> list[Entry]:
        """Every component of a kind."""
        return [entry for entry in self.entries if entry.kind == kind]

    def named(self, name: str) -> list[Entry]:
        """Every component called `name`, or `distribution:name`, of whatever kind."""
        return [entry for entry in self.entries if name in (entry.name, entry.full_name)]

    def find(self, kind: str, use: str) -> type[Component]:
        """The component class a recipe means.

        Raises:
            PluginError: none or several of that name; says what is installed and what is broken.
        """
        found = [entry for entry in self.named(use) if entry.kind == kind]
        if len(found) == 1:
            return found[0].cls
        if found:
            choices = " or ".join(f'use = "{entry.full_name}"' for entry in found)
            raise PluginError(f'{len(found)} distributions bring a {kind} named "{use}": write {choices}')
        raise PluginError(self._unknown(kind, use))

    def without(self, disabled: Collection[str], reason: str) -> Registry:
        """The registry with these plugins disabled; commands stay, since one of them may be running."""
        plugins = {p: attrs.evolve(p, status="disabled", reason=reason) for p in self.plugins if p.name in disabled}
        return Registry(
            plugins=tuple(plugins.get(plugin, plugin) for plugin in self.plugins),
            entries=tuple(entry for entry in self.entries if entry.plugin not in plugins),
            commands=self.commands,
            observers=tuple(pair for pair in self.observers if pair[1] not in plugins),
            diagnostics=tuple(pair for pair in self.diagnostics if pair[1] not in plugins),
        )

    def _unknown(self, kind: str, use: str) -> str:
        names = sorted({entry.name for entry in self.of_kind(kind)})
        near = get_close_matches(use, names, n=3)
        text = f'no {kind} named "{use}" is installed'
        text += f" (did you mean {' or '.join(near)}?)" if near else ""
        text += f"; installed: {', '.join(names) or 'none'}"
        for plugin in self.plugins:
            if plugin.status != "ok":
                text += f"; plugin {plugin} is {plugin.status}: {plugin.reason}"
                text += f" ({report(plugin)})" if plugin.status == "broken" else ""
        return text

    def blame(self, error: BaseException) -> Plugin | None:
        """The plugin in whose code an error arose, if in any; where several were at work, the innermost."""
        owners = {entry.cls.__module__.partition(".")[0]: entry.plugin for entry in self.entries}
        brought = [(command.callback, plugin) for command, plugin in self.commands] + [
            *self.observers,
            *self.diagnostics,
        ]
        owners |= {getattr(item, "__module__", "").partition(".")[0]: plugin for item, plugin in brought}
        found, trace = None, error.__traceback__
        while trace is not None:
            found = owners.get(str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0], found)
            trace = trace.tb_next
        return found


def report(plugin: Plugin) -> str:
    """Where a plugin's failure is to be reported."""
    return f"report it to {plugin.url or f'the makers of {plugin}'}"


def load_registry(extra: Iterable[tuple[str, Any]] = (), *, installed: bool = True) -> Registry:
    """Build the registry from entry points, then from `extra` (name, plugin object) pairs.

    Plugins named in the environment variable `LORAPLUG_DISABLE` (entry-point names, comma-separated) are left out.
    """
    found = list(on_path()) if installed else []
    found += [(Plugin(name, name, "0"), partial(_same, plugin)) for name, plugin in extra]
    disabled = {name.strip() for name in os.environ.get("LORAPLUG_DISABLE", "").split(",")}
    loaded = [_load(plugin, load, disabled) for plugin, load in found]
    return Registry(
        plugins=tuple(plugin for plugin, _ in loaded),
        entries=tuple(Entry(cls, plugin) for plugin, hooks in loaded for hook in HOOKS for cls in hooks.get(hook, ())),
        commands=tuple((item, plugin) for plugin, hooks in loaded for item in hooks.get("loraplug_commands", ())),
        observers=tuple((item, plugin) for plugin, hooks in loaded for item in hooks.get("loraplug_events", ())),
        diagnostics=tuple((item, plugin) for plugin, hooks in loaded for item in hooks.get("loraplug_diagnostics", ())),
    )


def _same(plugin: Any) -> Any:
    return plugin


def _load(plugin: Plugin, load: Callable[[], Any], disabled: set[str]) -> tuple[Plugin, dict[str, list[Any]]]:
    if plugin.name in disabled:
        return attrs.evolve(plugin, status="disabled", reason="named in LORAPLUG_DISABLE"), {}
    # a manager each: pluggy's check_pending speaks for a whole manager, and a broken plugin must only break itself
    manager = pluggy.PluginManager("loraplug")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(load(), plugin.name)
        manager.check_pending()
        names = [*HOOKS, *_OTHER_HOOKS]
        found = {name: [item for items in getattr(manager.hook, name)() for item in items] for name in names}
        for hook, kind in HOOKS.items():
            for cls in found[hook]:
                _check_class(cls, kind)
        _check_others(found)
    # whatever a stranger's module does at import, SystemExit included, the command line must go on
    except (Exception, SystemExit) as error:
        return attrs.evolve(plugin, status="broken", reason=_reason(error)), {}
    return plugin, found


def _check_class(cls: Any, kind: str) -> None:
    base = KINDS[kind]
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise PluginError(f"{cls!r} is not a {base.__name__} class")
    if not attrs.has(cls) or "__attrs_attrs__" not in cls.__dict__:
        raise PluginError(f"{cls.__name__} is not an attrs class: decorate it with @attrs.frozen")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise PluginError(f"{cls.__name__} lacks {', '.join(missing)}()")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", str(getattr(cls, "name", ""))):
        raise PluginError(f"{cls.__name__}.name must be lower-case letters, digits, dots or dashes")


def _check_others(found: dict[str, list[Any]]) -> None:
    import click

    for command in found["loraplug_commands"]:
        if not isinstance(command, click.Command) or not command.name:
            raise PluginError(f"{command!r} is not a click command with a name")
    for observer in found["loraplug_events"]:
        if not callable(observer):
            raise PluginError(f"{observer!r} cannot be called with an event")
    for diagnostic in found["loraplug_diagnostics"]:
        if not callable(diagnostic):
            raise PluginError(f"{diagnostic!r} cannot be called with a run")


def _reason(error: BaseException) -> str:
    text = f"{error}" if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
    if isinstance(error, pluggy.PluginValidationError):
        match = re.search(r"unknown hook '?(\w+)'?", text)
        near = get_close_matches(match[1], [*HOOKS, *_OTHER_HOOKS], n=1) if match else []
        text = f"unknown hook {match[1]}" if match else text
        text += f" (did you mean {near[0]}?)" if near else ""
    return " ".join(text.split())
