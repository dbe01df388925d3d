"""Finds plugins and records which plugin defines what. Broken plugins are listed and do not affect others."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from loraplug.context import Event
from loraplug.errors import PluginError
from loraplug.plugin.components import HOOKS, Component
from loraplug.plugin.contracts import BUILT_IN, recipe_tables
from loraplug.plugin.diagnostics import Diagnostic
from loraplug.plugin.installed import Plugin
from loraplug.plugin.installed import installed as on_path
from loraplug.plugin.loading import Found, load

if TYPE_CHECKING:
    import click


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

    def built_in(self, kind: str, name: str) -> type[Component]:
        """The component that the core itself asks for by name: the built-in one, whoever else uses the name.

        Raises:
            PluginError: there is none.
        """
        full = f"{BUILT_IN}:{name}"
        return self.find(kind, full if any(entry.kind == kind for entry in self.named(full)) else name)

    def use_of(self, cls: type) -> str | None:
        """What a recipe's `use` says for a class: its name, with the distribution's where several have that name."""
        for entry in self.entries:
            if entry.cls is cls:
                twins = [other for other in self.named(entry.name) if other.kind == entry.kind]
                return entry.full_name if len(twins) > 1 else entry.name
        return None

    def command(self, name: str) -> click.Command | None:
        """The command of that name; None where there is none.

        Raises:
            PluginError: several plugins bring one.
        """
        found = [(command, plugin) for command, plugin in self.commands if command.name == name]
        if len(found) > 1:
            names = [plugin.name for _, plugin in found]
            todo = " or ".join(f"LORAPLUG_DISABLE={other}" for other in names) + " leaves one out"
            raise PluginError(f'several plugins bring a command "{name}": {_listed(found)}', todo=todo)
        return found[0][0] if found else None

    @property
    def tables(self) -> dict[str, type]:
        """Tables of a recipe that commands read, such as `improve`: name to the attrs class of its options."""
        return {name: cls for command, _ in self.commands for name, cls in recipe_tables(command).items()}

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
        kinds = sorted({entry.kind for entry in self.named(use)})
        text += f'; "{use}" is a {" and a ".join(kinds)}' if kinds else ""
        for plugin in self.plugins:
            if plugin.status != "ok":
                text += f"; plugin {plugin} is {plugin.status}: {plugin.reason}"
                text += f" ({report(plugin)})" if plugin.fails else ""
        return text

    def blame(self, error: BaseException) -> Plugin | None:
        """The plugin in whose code an error was raised, if any; the innermost of several."""
        owners = self._owners()
        found, trace = None, error.__traceback__
        while trace is not None:
            module = str(trace.tb_frame.f_globals.get("__name__"))
            at = next((owners[name] for name in _packages(module) if name in owners), set())
            found = next(iter(at)) if len(at) == 1 else found  # a namespace package of several says nothing
            trace = trace.tb_next
        return found

    def _owners(self) -> dict[str, set[Plugin]]:
        """Modules and packages, and the plugins whose code is in them; what an entry point names counts before all."""
        modules = [(plugin.module, plugin) for plugin in self.plugins if plugin.module]
        brought = [(command.callback, plugin) for command, plugin in self.commands] + [*self.observers]
        brought += [(entry.cls, entry.plugin) for entry in self.entries]
        owners: dict[str, set[Plugin]] = {}
        for module, plugin in modules:
            for name in _packages(module):
                owners.setdefault(name, set()).add(plugin)
        named = owners.keys()
        for item, plugin in brought:
            module = str(getattr(item, "__module__", None) or type(item).__module__)
            if not any(name in named and plugin not in owners[name] for name in _packages(module)):
                for name in _packages(module):
                    owners.setdefault(name, set()).add(plugin)
        return owners


def _packages(module: str) -> Iterator[str]:
    """A module's name and those of the packages around it, innermost first; the core is nobody's."""
    while module and module != "loraplug":
        yield module
        module = module.rpartition(".")[0]


def _listed(found: Iterable[tuple[Any, Plugin]]) -> str:
    return " and ".join(str(plugin) for _, plugin in found)


def report(plugin: Plugin) -> str:
    """Where to report a plugin's failure."""
    return f"report it to {plugin.url or f'the makers of {plugin}'}"


def load_registry(extra: Iterable[tuple[str, Any]] = (), *, installed: bool = True) -> Registry:
    """Build the registry from entry points, then from `extra` (name, plugin object) pairs.

    Plugins named in the environment variable `LORAPLUG_DISABLE` (entry-point names, comma-separated) are left out.
    """
    found = list(on_path()) if installed else []
    found += [(Plugin(name, name, "0"), partial(_same, plugin)) for name, plugin in extra]
    disabled = {name.strip() for name in os.environ.get("LORAPLUG_DISABLE", "").split(",")}
    loaded = _without_doubles([_load(plugin, loader, disabled) for plugin, loader in found])
    unknown = disabled - {plugin.name for plugin, _ in found} - {""}
    why = "named in LORAPLUG_DISABLE, but not installed"
    loaded += [(Plugin(name, name, "-", status="disabled", reason=why), {}) for name in sorted(unknown)]
    return Registry(
        plugins=tuple(plugin for plugin, _ in loaded),
        entries=tuple(Entry(cls, plugin) for plugin, hooks in loaded for hook in HOOKS for cls in hooks.get(hook, ())),
        commands=tuple((item, plugin) for plugin, hooks in loaded for item in hooks.get("loraplug_commands", ())),
        observers=tuple((item, plugin) for plugin, hooks in loaded for item in hooks.get("loraplug_events", ())),
        diagnostics=tuple((item, plugin) for plugin, hooks in loaded for item in hooks.get("loraplug_diagnostics", ())),
    )


def _same(plugin: Any) -> Any:
    return plugin


def _load(plugin: Plugin, loader: Callable[[], Any], disabled: set[str]) -> tuple[Plugin, Found]:
    if plugin.name in disabled:
        return attrs.evolve(plugin, status="disabled", reason="named in LORAPLUG_DISABLE"), {}
    return load(plugin, loader) if plugin.status == "ok" else (plugin, {})


def _without_doubles(loaded: list[tuple[Plugin, Found]]) -> list[tuple[Plugin, Found]]:
    """A plugin that brings a command of a built-in one's name, or a component of its own distribution's, is refused."""
    first: dict[tuple[str, ...], Plugin] = {}
    checked = dict(enumerate(loaded))
    for index in sorted(checked, key=lambda index: loaded[index][0].distribution != BUILT_IN):
        plugin, found = loaded[index]
        keys: list[tuple[str, ...]]
        keys = [(plugin.distribution, HOOKS[hook], str(cls.name)) for hook in HOOKS for cls in found.get(hook, ())]
        keys += [("command", str(command.name)) for command in found.get("loraplug_commands", ())]
        keys += [("table", name) for command in found.get("loraplug_commands", ()) for name in recipe_tables(command)]
        twice = [(key, first.get(key, plugin)) for key in keys if key in first or keys.count(key) > 1]
        if twice:
            key, other = twice[0]
            reason = f'brings a {key[-2]} "{key[-1]}", as {other} does: one of them needs another name'
            checked[index] = attrs.evolve(plugin, status="broken", reason=reason), {}
            continue
        for key in keys:  # two strangers' commands are both kept, to be named when one is asked for
            if key[0] != "command" or plugin.distribution == BUILT_IN:
                first[key] = plugin
    return list(checked.values())
