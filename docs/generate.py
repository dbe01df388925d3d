"""What cog writes into these pages: signatures, option tables and the help of the commands, from the code itself.

`make docs` writes it anew; the tests fail while a page does not say what the code does. Neither the width of the
terminal nor anything that is installed beside loraplug changes the text.
"""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Iterator
from textwrap import dedent, indent
from typing import Any

import click

from loraplug import Entry, Registry, load_registry
from loraplug.plugin import hookspecs
from loraplug.plugin.components import HOOKS, KINDS
from loraplug.plugin.contracts import recipe_tables
from loraplug_tools.plugins.conformance import every_option
from loraplug_tools.plugins.listing import toml

WIDTH = 88


def hook(name: str) -> str:
    """The signature of a hook and what its specification says."""
    function = getattr(hookspecs, name)
    return f"\n```python\n{_signature(function)}\n```\n\n{_text(function)}\n\n"


def verbs(hook_name: str) -> str:
    """The methods of the base class whose subclasses a hook returns: those to write, then those to override."""
    base = KINDS[HOOKS[hook_name]]
    methods = [item for name, item in vars(base).items() if inspect.isfunction(item) and not name.startswith("_")]
    methods.sort(key=lambda method: not getattr(method, "__isabstractmethod__", False))
    blocks = []
    for method in methods:
        needed = "to write" if getattr(method, "__isabstractmethod__", False) else "may be overridden"
        text = _text(method)
        body = indent(f'"""{text}' + ('\n"""' if "\n" in text else '"""'), "    ")
        blocks.append(f"\n`{method.__name__}`, {needed}:\n\n```python\n{_signature(method)}\n{body}\n```\n")
    return "".join(blocks) + "\n"


def built_in(hook_name: str) -> str:
    """Links to the components that loraplug itself brings through a hook."""
    found = [entry for entry in _entries() if entry.kind == HOOKS[hook_name]]
    lines = [f"- [`{entry.name}`](../options.md#{_anchor(entry)}): {_first(entry)}\n" for entry in found]
    return "\n" + "".join(lines) + "\n"


def contents() -> str:
    """A table of all built-in components."""
    lines = [f"| {entry.kind} | [`{entry.name}`](#{_anchor(entry)}) | {_first(entry)} |" for entry in _entries()]
    return "\n".join(["\n| kind | `use` | |", "|---|---|---|", *lines, "", ""])


def option_tables() -> str:
    """A section for each built-in component: what it is, and a table of its options."""
    return "\n" + "\n".join(map(_section, _entries())) + "\n"


def command_tables() -> str:
    """A section for each table of recipes that a built-in command reads."""
    found = [command for command, plugin in _registry().commands if plugin.distribution == "loraplug"]
    tables = [(name, cls, command) for command in found for name, cls in recipe_tables(command).items()]
    return (
        "\n"
        + "\n".join(
            "\n".join([f"## table {name}", "", f"Read by `loraplug {command.name}`. {_text(cls)}", "", *_rows(cls), ""])
            for name, cls, command in sorted(tables, key=lambda one: one[0])
        )
        + "\n"
    )


def command_help() -> str:
    """A section for each built-in command with its `--help`, subcommands included."""
    parts = []
    for command, plugin in sorted(_registry().commands, key=lambda pair: str(pair[0].name)):
        if plugin.distribution == "loraplug":
            parts += list(_helps(command, f"loraplug {command.name}", None))
    return "\n" + "\n".join(parts) + "\n"


def overlong_table() -> str:
    """What becomes of rows with more than `max_length` tokens, for each value of `overlong`."""
    from loraplug_chat.overlong import TABLE

    cells = ["| `overlong` | conversations | prompt and completion as text | plain text |", "|---|---|---|---|"]
    cells += [f"| `{value}` | {' | '.join(cut)} |" for value, cut in TABLE.items()]
    return "\n" + "\n".join(cells) + "\n\n"


def _helps(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    short = {"help_option_names": ["-h", "--help"]}
    context = click.Context(command, info_name=name.split()[-1] if parent else name, parent=parent, **short)  # type: ignore[arg-type]
    context.terminal_width = context.max_content_width = WIDTH
    yield f"## {name}\n\n```\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _helps(inner, f"{name} {inner.name}", context)


def _registry() -> Registry:
    os.environ.pop("LORAPLUG_DISABLE", None)
    return load_registry()


def _entries() -> list[Entry]:
    kinds = list(KINDS)
    own = [entry for entry in _registry().entries if entry.plugin.distribution == "loraplug"]
    return sorted(own, key=lambda entry: (kinds.index(entry.kind), entry.name))


def _section(entry: Entry) -> str:
    return "\n".join([f"## {entry.kind} {entry.name}", "", _text(entry.cls), "", *_rows(entry.cls), ""])


def _rows(cls: type) -> list[str]:
    rows = [
        f"| `{name}` | {_cell(option.type_name)} | {_default(option)} | {_cell(option.doc, code=False)} |"
        for name, option in every_option(cls)
    ]
    return ["| option | type | default | |", "|---|---|---|---|", *rows] if rows else ["No options."]


def _default(option: Any) -> str:
    if option.nested is not None:
        return "a table"
    if option.required:
        return "required"
    return "not set" if option.default is None else _cell(toml(option.default))


def _cell(text: str, code: bool = True) -> str:
    escaped = text.replace("|", "\\|").replace("\n", " ")
    return f"`{escaped}`" if code else escaped


def _anchor(entry: Entry) -> str:
    return f"{entry.kind}-{entry.name}"


def _first(entry: Entry) -> str:
    return _text(entry.cls).split("\n\n", 1)[0].replace("\n", " ")


def _text(item: Any) -> str:
    return inspect.getdoc(item) or ""


def _signature(function: Any) -> str:
    """The lines of its definition as they stand in the source, decorators and body left out."""
    lines = dedent(inspect.getsource(function)).splitlines()
    tree = ast.parse("\n".join(lines)).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise TypeError(f"{function} is no function")
    return "\n".join(lines[tree.lineno - 1 : tree.body[0].lineno - 1])
