"""What `loraplug plugins list` and `loraplug plugins show` print."""

from __future__ import annotations

import inspect
import json
from difflib import get_close_matches
from textwrap import wrap
from typing import Any

from loraplug import KINDS, Entry, Option, Plugin, PluginError, Registry, as_toml, options, report


def list_plugins(registry: Registry, as_json: bool) -> str:
    """A line for each component, command, observer, diagnostic and plugin that does not work; or all of it as JSON."""
    if as_json:
        return json.dumps(_as_data(registry), indent=2)
    rows = [("KIND", "NAME", "PROVIDED BY", "STATUS", "")]
    for entry in sorted(registry.entries, key=lambda entry: ([*KINDS].index(entry.kind), entry.name)):
        twins = [other for other in registry.named(entry.name) if other.kind == entry.kind]
        said = f'say use = "{entry.full_name}"' if len(twins) > 1 else _summary(entry)
        rows.append((entry.kind, entry.name, _origin(entry.plugin), "ok", said))
    for command, plugin in registry.commands:
        others = [other for twin, other in registry.commands if twin.name == command.name and other is not plugin]
        said = f"also provided by {', '.join(map(str, others))}" if others else command.get_short_help_str(80)
        rows.append(("command", str(command.name), _origin(plugin), "ok", said))
    for observer, plugin in registry.observers:
        rows.append(("observer", observer_name(observer), _origin(plugin), "ok", _first_line(observer)))
    for diagnostic, plugin in registry.diagnostics:
        rows.append(("diagnostic", observer_name(diagnostic), _origin(plugin), "ok", _first_line(diagnostic)))
    idle = [plugin for plugin in registry.plugins if plugin.status != "ok"]
    rows += [("plugin", plugin.name, _origin(plugin), plugin.status, _why(plugin)) for plugin in idle]
    rows += [("plugin", plugin.name, _origin(plugin), "ok", NOTHING) for plugin in empty(registry)]
    rows += [
        ("plugin", plugin.name, _origin(plugin), "ok", note) for plugin in registry.plugins for note in plugin.notes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [[*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


PRINTS = "prints when it is loaded"
"""The note of a plugin that does."""
NOTHING = "provides nothing: are its hooks decorated with @loraplug.hookimpl?"


def empty(registry: Registry) -> list[Plugin]:
    """Plugins that load and provide nothing: pluggy passes over a hook that is not marked or gives None, silently."""
    used = [entry.plugin for entry in registry.entries]
    used += [plugin for _, plugin in (*registry.commands, *registry.observers, *registry.diagnostics)]
    return [plugin for plugin in registry.plugins if plugin.status == "ok" and plugin not in used]


def _origin(plugin: Plugin) -> str:
    return f"{plugin.distribution} {plugin.version}"


def _why(plugin: Plugin) -> str:
    return f"{plugin.reason}; {report(plugin)}" if plugin.fails else str(plugin.reason)


def observer_name(observer: Any) -> str:
    """What to call an observer or a diagnostic: its function's or its class's name."""
    return str(getattr(observer, "__name__", type(observer).__name__))


def _first_line(item: Any) -> str:
    return (inspect.getdoc(item) or "").split("\n\n", 1)[0].replace("\n", " ")


def _as_data(registry: Registry) -> dict[str, Any]:
    plugins = [
        {key: getattr(p, key) for key in ("name", "distribution", "version", "url", "status", "reason", "notes")}
        | {"seconds": round(p.seconds, 3)}
        for p in registry.plugins
    ]
    components = [
        {"kind": e.kind, "name": e.name, "plugin": e.plugin.name, "distribution": e.plugin.distribution,
         "version": e.plugin.version, "summary": _summary(e)}
        for e in registry.entries
    ]  # fmt: skip
    commands = [{"name": c.name, "plugin": p.name, "distribution": p.distribution} for c, p in registry.commands]
    observers = [
        {"name": observer_name(o), "plugin": p.name, "distribution": p.distribution} for o, p in registry.observers
    ]
    diagnostics = [
        {"name": observer_name(d), "plugin": p.name, "distribution": p.distribution} for d, p in registry.diagnostics
    ]
    return {
        "plugins": plugins, "components": components, "commands": commands, "observers": observers,
        "diagnostics": diagnostics,
    }  # fmt: skip


def _summary(entry: Entry) -> str:
    return _first_line(entry.cls)


def show_plugin(registry: Registry, name: str, as_json: bool) -> str:
    """The page of each component called `name`, or provided by the plugin of that name; or all of it as JSON.

    Raises:
        PluginError: nothing of that name is installed, or it is broken.
    """
    found = registry.named(name) or [entry for entry in registry.entries if entry.plugin.name == name]
    if not found:
        for plugin in registry.plugins:
            if plugin.name == name and plugin.status != "ok":
                todo = report(plugin) if plugin.fails else ""
                raise PluginError(f"is {plugin.status}: {plugin.reason}", where=f"plugin {plugin}", todo=todo)
        known = sorted({entry.name for entry in registry.entries})
        near = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"installed: {', '.join(known)}"
        raise PluginError(f'nothing named "{name}" is installed', todo=hint)
    if as_json:
        return json.dumps([_component_data(entry) for entry in found], indent=2, default=str)
    return "\n\n".join(map(_page, found))


def _component_data(entry: Entry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "plugin": entry.plugin.name,
        "distribution": entry.plugin.distribution,
        "version": entry.plugin.version,
        "doc": inspect.getdoc(entry.cls),
        "options": [_option_data(option) for option in options(entry.cls)],
        "snippet": snippet(entry),
    }


def _option_data(option: Option) -> dict[str, Any]:
    data = {"name": option.name, "type": option.type_name, "required": option.required, "doc": option.doc}
    if option.holds is not None:
        data["holds"] = option.holds.kind
    if option.nested is not None:
        return data | {"options": [_option_data(inner) for inner in options(option.nested)]}
    return data if option.required else data | {"default": as_toml(option.default)}


def _page(entry: Entry) -> str:
    lines = [
        f"{entry.name}: a {entry.kind}, provided by {entry.plugin.distribution} {entry.plugin.version} "
        f"(plugin {entry.plugin.name})",
        "",
        inspect.getdoc(entry.cls) or "",
        "",
        "Options",
        *_option_lines(entry.cls, ""),
        "",
        "In a recipe",
        *(f"  {line}" for line in snippet(entry).splitlines()),
    ]
    return "\n".join(lines)


def _option_lines(cls: type, prefix: str) -> list[str]:
    lines = []
    for option in options(cls):
        if option.nested is not None:
            lines += [f"  {prefix}{option.name}.…  (table)  {option.doc}"]
            lines += _option_lines(option.nested, f"{prefix}{option.name}.")
            continue
        default = "required" if option.required else f"= {toml(option.default)}"
        lines.append(f"  {prefix}{option.name}  ({option.type_name})  {default}")
        lines += [f"      {line}" for line in wrap(option.doc, 100)]
    return lines or ["  none"]


def toml(value: Any) -> str:
    """A value as it is written in TOML; `not set` for None, which TOML cannot say."""
    import tomli_w

    value = as_toml(value)
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):  # on one line, as in a recipe
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }" if value else "{}"
    return "not set" if value is None else tomli_w.dumps({"v": value}).strip().removeprefix("v = ")


def _example(option: Option) -> str:
    if option.holds is not None:
        table = '{ use = "…" }'
        return f"[{table}]" if option.type_name.startswith("list") else table
    return _EXAMPLES.get(option.type_name.split(" |")[0], "[]" if option.type_name.startswith("list") else "…")


_EXAMPLES = {"str": '"…"', "path": '"path/to/file"', "int": "1", "float": "1.0", "bool": "false"}


def snippet(entry: Entry) -> str:
    """A recipe table with the required options to fill in and the others at their defaults, commented out."""
    inside = {"transform": "dataset", "adapter": "trainer", "optimizer": "trainer", "scheduler": "trainer"}
    place = f"{inside[entry.kind]}.{entry.kind}" if entry.kind in inside else entry.kind
    head = f"[[{place}]]" if entry.kind in ("exporter", "transform") else f"[{place}]"
    return "\n".join([head, f'use = "{entry.name}"', *_snippet_lines(entry.cls, place)])


def _snippet_lines(cls: type, path: str) -> list[str]:
    lines, tables = [], []
    for option in options(cls):
        if option.nested is not None:
            inner = _snippet_lines(option.nested, f"{path}.{option.name}")
            tables += [f"# [{path}.{option.name}]", *inner]
        elif option.required:
            lines.append(f"{option.name} = {_example(option)}")
        elif option.default is not None and not isinstance(option.default, dict):
            lines.append(f"# {option.name} = {toml(option.default)}")
    return [*lines, *tables]
