"""What the plugin API promises and asks, checked when a plugin is loaded: version, hooks, verbs, reserved names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import attrs

from loraplug.config.options import options
from loraplug.errors import LoraplugError, PluginError
from loraplug.plugin.components import KINDS, RESERVED, TABLES, Component
from loraplug.plugin.installed import Plugin

API_VERSION = "2.0"
"""Of what plugins can rely on, as MAJOR.MINOR; see docs/plugin-api.md for what changes either."""
DECLARED = "LORAPLUG_API"
"""The name in a plugin's module that says which version of the plugin API it was made for."""
BUILT_IN = "loraplug"
"""The distribution whose plugins are the built-in ones."""

CORE_TABLES = frozenset({"run_name", "seed", "workers", "validation", "mix", "plugins", "extends", "lock", *TABLES})
"""Keys at the top of a recipe that are the core's."""


class IncompatibleError(PluginError):
    """A plugin was made for another plugin API than this one."""


def check_version(plugin: Plugin, declared: Any) -> None:
    """IncompatibleError where a plugin was made for another major version, or for a later minor one."""
    if declared is None:
        return
    match = re.fullmatch(r"(\d+)\.(\d+)", declared) if isinstance(declared, str) else None
    if match is None:
        raise PluginError(f'{DECLARED} = {declared!r}: write the version it was made for, such as "{API_VERSION}"')
    theirs, ours = (int(match[1]), int(match[2])), tuple(map(int, API_VERSION.split(".")))
    if theirs[0] != ours[0] or theirs[1] > ours[1]:
        newer = f"a newer {BUILT_IN}"
        todo = newer if theirs > ours else f"a newer {plugin.distribution}, made for plugin API {ours[0]}"
        what = f"was made for plugin API {declared}, and this is {API_VERSION}"
        raise IncompatibleError(what, todo=f"install {todo}")


def check_hooks(module: Any, names: tuple[str, ...]) -> None:
    """IncompatibleError where a hook asks for arguments: none is given any."""
    for name in names:
        hook = getattr(module, name, None)
        if hook is None or not callable(hook) or not hasattr(hook, "loraplug_impl"):
            continue
        if wanted := [*inspect.signature(hook).parameters]:
            raise IncompatibleError(f"hook {name}({', '.join(wanted)}): hooks are called without arguments")


def check_class(cls: Any, kind: str, types: bool = True) -> None:
    """PluginError unless a class is a sound component of its kind.

    Args:
        types: look at the annotations, too. That takes a millisecond a class, and tests do it for the built-in ones.
    """
    base = KINDS[kind]
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise PluginError(f"{cls!r} is not a {base.__name__} class")
    if not attrs.has(cls) or "__attrs_attrs__" not in cls.__dict__:
        raise PluginError(f"{cls.__name__} is not an attrs class: decorate it with @attrs.frozen")
    if not attrs.inspect(cls).is_frozen:
        raise PluginError(f"{cls.__name__} is mutable: decorate it with @attrs.frozen")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise PluginError(f"{cls.__name__} lacks {', '.join(missing)}()")
    _check_fields(cls, base)
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", str(getattr(cls, "name", ""))):
        raise PluginError(f"{cls.__name__}.name must be lower-case letters, digits, dots or dashes")
    for name, method in {**vars(Component), **vars(base)}.items():
        if inspect.isfunction(method) and not name.startswith("_"):
            _check_verb(cls, name, method)
    _check_schemas(cls)
    if types:
        try:
            options(cls)
        except LoraplugError as error:
            raise PluginError(f"{error.where}: {error.what}", todo=error.todo) from error


def _check_fields(cls: Any, base: type[Component]) -> None:
    own = {name for name in dir(base) if not name.startswith("_")}
    for attribute in attrs.fields(cls):
        if attribute.name in RESERVED.get(base.kind, ()) or attribute.name == "use":
            raise PluginError(f"{cls.__name__}: an option may not be called {attribute.name}: the core reads that key")
        if attribute.name in own | {"name"}:
            what = f"{cls.__name__}: an option may not be called {attribute.name}: {base.__name__} has that name"
            raise PluginError(what)
    if cls.kind != base.kind:
        raise PluginError(f"{cls.__name__}.kind is {cls.kind!r}: leave it out, a {base.__name__} is a {base.kind}")


def _check_schemas(cls: Any) -> None:
    made = getattr(cls, "produces", frozenset({"tokens"}))
    if not isinstance(made, frozenset) or not made or not all(isinstance(name, str) for name in made):
        raise PluginError(f'{cls.__name__}.produces must be a frozenset of schemas, such as frozenset({{"tokens"}})')
    if not isinstance(getattr(cls, "consumes", ""), str):
        what = f'{cls.__name__}.consumes must be one schema, such as "tokens"; names of columns go into `columns`'
        raise IncompatibleError(what)


def _check_verb(cls: Any, name: str, ours: Any) -> None:
    """Verbs are called by keyword: every parameter of the base's must be taken, and no other needed."""
    static = inspect.getattr_static(cls, name)
    if static is ours:
        return
    if not callable(getattr(cls, name)):
        raise PluginError(f"{cls.__name__}.{name} is not a method")
    given = [*inspect.signature(ours).parameters][1:]
    bound = isinstance(static, staticmethod | classmethod)
    try:
        theirs = inspect.signature(getattr(cls, name))
    except ValueError:  # of a builtin, which does not tell
        return
    try:
        theirs.bind(*(() if bound else (None,)), **dict.fromkeys(given))
    except TypeError as error:
        wanted = f"{name}(self{''.join(f', {key}' for key in given)})"
        raise IncompatibleError(f"{cls.__name__}.{name}{theirs} cannot be called as {wanted}: {error}") from None


def recipe_tables(command: Any) -> Mapping[str, type]:
    """The tables of a recipe that a command reads, by name; see `loraplug.RecipeCommand`."""
    found: Mapping[str, type] = getattr(command, "recipe_tables", {})
    return found


def check_others(found: dict[str, list[Any]]) -> None:
    """PluginError unless commands are click's, each with a name of its own, and observers can be called."""
    import click

    names = set()
    for command in found["loraplug_commands"]:
        if not isinstance(command, click.Command) or not command.name:
            raise PluginError(f"{command!r} is not a click command with a name")
        if command.name in names:
            raise PluginError(f'brings two commands called "{command.name}"')
        names.add(command.name)
        for name, cls in recipe_tables(command).items():
            if name in CORE_TABLES or not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
                raise PluginError(f'the command {command.name} cannot have a table "{name}" in recipes')
            if not attrs.has(cls) or not attrs.inspect(cls).is_frozen:
                raise PluginError(f"{cls!r}, the table {name} of recipes, is not a class made by @attrs.frozen")
    for observer in found["loraplug_events"]:
        if not callable(observer):
            raise PluginError(f"{observer!r} cannot be called with an event")
    for diagnostic in found["loraplug_diagnostics"]:
        if not callable(diagnostic):
            raise PluginError(f"{diagnostic!r} cannot be called with a run")
