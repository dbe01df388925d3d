"""`loraplug plugins check`: every check of everything an installed package provides."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import tomli

from loraplug import Entry, InputError, Plugin, PluginError, Registry, options
from loraplug.testing import from_table
from loraplug_tools.plugins.conformance import Finding, check_class, conformance, require, tried
from loraplug_tools.plugins.listing import NOTHING, PRINTS, empty, observer_name

HEAVY = (
    "torch", "transformers", "datasets", "tokenizers", "trl", "peft", "accelerate", "bitsandbytes", "gradio", "numpy",
    "pandas", "pyarrow", "matplotlib", "huggingface_hub",
)  # fmt: skip
"""What no plugin may import when it is listed: each of these costs every command more than all the rest."""


def check_package(package: str, registry: Registry, settings: tuple[str, ...] = ()) -> list[Finding]:
    """Check a distribution's plugins, or the plugin of that name. `settings` are `component.option=value` words.

    Raises:
        PluginError: no such package has a plugin.
        InputError: a setting names no component or cannot be read.
    """
    plugins = [plugin for plugin in registry.plugins if package == plugin.name]
    plugins = plugins or [plugin for plugin in registry.plugins if _plain(package) == _plain(plugin.distribution)]
    if not plugins:
        known = sorted({name for plugin in registry.plugins for name in (plugin.distribution, plugin.name)})
        near = get_close_matches(package, known, n=3)
        todo = "install it first: python -m pip install --editable . (in its folder)"
        todo += f"; or did you mean {' or '.join(near)}?" if near else ""
        raise PluginError(f'no plugin of a package "{package}" is installed', todo=todo)
    tables = _tables(settings, [entry for entry in registry.entries if entry.plugin in plugins])
    findings: list[Finding] = []
    for plugin in plugins:
        findings += _check_plugin(plugin, registry)
        for entry in registry.entries:
            if entry.plugin is plugin:
                findings += _check_entry(entry, tables.get((entry.kind, entry.name), {}))
    if plugins[0].url is None:
        text = "add a project URL where users can report problems: urls.Issues under [project] in pyproject.toml"
        findings.append(Finding(f"distribution {plugins[0].distribution}", "has a URL for bug reports", "advice", text))
    return findings


def report(findings: list[Finding], as_json: bool = False) -> str:
    """The findings for people, or as JSON."""
    if as_json:
        return json.dumps([attrs.asdict(finding) for finding in findings], indent=2)
    lines: list[str] = []
    subject = None
    for finding in findings:
        if finding.subject != subject:
            lines += ["", finding.subject] if lines else [finding.subject]
            subject = finding.subject
        lines.append(f"  {finding.status:8} {finding.check}")
        lines += [f"           {line}" for line in finding.detail.splitlines()]
    counts = {
        status: sum(item.status == status for item in findings) for status in ("ok", "failed", "advice", "not run")
    }
    return "\n".join([*lines, "", ", ".join(f"{count} {status}" for status, count in counts.items() if count)])


def _plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _tables(settings: tuple[str, ...], entries: list[Entry]) -> dict[tuple[str, str], dict[str, Any]]:
    tables: dict[tuple[str, str], dict[str, Any]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        heads = [(head, entry) for entry in entries for head in (entry.name, f"{entry.kind}.{entry.name}")]
        meant = [(head, entry) for head, entry in heads if key.startswith(f"{head}.")]
        if not equals or len(meant) != 1:
            names = ", ".join(sorted(f"{entry.kind}.{entry.name}" for entry in entries))
            what = "names more than one component" if len(meant) > 1 else "names no component of this package"
            todo = f"write NAME.OPTION=VALUE or KIND.NAME.OPTION=VALUE; components: {names or 'none'}"
            raise InputError(what, where=f"--set {setting}", todo=todo)
        head, entry = meant[0]
        table = tables.setdefault((entry.kind, entry.name), {})
        *outer, last = key.removeprefix(f"{head}.").split(".")
        for part in outer:
            table = table.setdefault(part, {})
        try:
            table[last] = tomli.loads(f"value = {text}")["value"]
        except tomli.TOMLDecodeError:
            table[last] = text  # a bare word
    return tables


def _check_plugin(plugin: Plugin, registry: Registry) -> list[Finding]:
    subject = f"plugin {plugin}"
    found = [tried(subject, "loads", partial(_loads, plugin))]
    if plugin.status != "ok":
        return found
    found.append(tried(subject, "provides something", partial(_provides, plugin, registry)))
    found.append(tried(subject, "imports nothing heavy when it is listed", partial(_light, plugin, registry)))
    found.append(tried(subject, "does not change loraplug", partial(_leaves_alone, plugin, registry)))
    found.append(tried(subject, "prints nothing when loaded", partial(_silent, plugin)))
    found += [Finding(subject, "loads fast", "advice", note) for note in plugin.notes if note != PRINTS]
    for command, origin in registry.commands:
        if origin is plugin:
            found.append(
                tried(f"command {command.name}", "has help for itself and its options", partial(_helps, command))
            )
    for observer, origin in registry.observers:
        if origin is plugin:
            from loraplug_tools.plugins.kind_checks import observe

            found.append(tried(f"observer {observer_name(observer)}", "takes every event", partial(observe, observer)))
    for diagnostic, origin in registry.diagnostics:
        if origin is plugin:
            from loraplug_tools.plugins.kind_checks import diagnose

            subject = f"diagnostic {observer_name(diagnostic)}"
            found.append(tried(subject, "yields findings that can be shown", partial(diagnose, diagnostic)))
    return found


def _loads(plugin: Plugin) -> None:
    require(plugin.status == "ok", f"is {plugin.status}: {plugin.reason}")


def _provides(plugin: Plugin, registry: Registry) -> None:
    require(plugin not in empty(registry), NOTHING)


def _light(plugin: Plugin, registry: Registry) -> None:
    found = f"[name for name in {HEAVY!r} if name in sys.modules]"
    loaded = _alone(plugin, registry, f"import sys, loraplug\nloraplug.load_registry()\nprint(*{found}, sep=', ')")
    require(not loaded, f"imports {loaded}: import them inside methods")


_WATCHED = """
import importlib, pkgutil, loraplug
modules = [importlib.import_module(info.name) for info in pkgutil.walk_packages(loraplug.__path__, "loraplug.")
           if info.name != "loraplug.__main__" and not info.name.startswith("loraplug.adapters.")]  # those load torch
def names():
    for module in [loraplug, *modules]:
        for name, value in list(vars(module).items()):
            yield (module.__name__, name), value
            if isinstance(value, type) and value.__module__ == module.__name__:
                yield from (((module.__name__, f"{name}.{key}"), item) for key, item in list(vars(value).items())
                            if callable(item))
before = dict(names())
loraplug.load_registry()
after = dict(names())
print(*(".".join(key) for key in before if after.get(key) is not before[key] and not key[1].startswith("_")), sep=", ")
"""


def _leaves_alone(plugin: Plugin, registry: Registry) -> None:
    changed = _alone(plugin, registry, _WATCHED)
    require(not changed, f"replaces {changed} when it is loaded; other plugins rely on the original")


def _silent(plugin: Plugin) -> None:
    require(PRINTS not in plugin.notes, PRINTS)


def _alone(plugin: Plugin, registry: Registry, code: str) -> str:
    """What a program prints in which no other plugin is loaded."""
    others = ",".join({other.name for other in registry.plugins} - {plugin.name})
    environment = os.environ | {"LORAPLUG_DISABLE": others}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    require(done.returncode == 0, done.stderr.strip()[-500:])
    return done.stdout.strip()


def _helps(command: Any) -> None:
    import click

    require(command.help, "has no help: give its function a docstring")
    bare = [
        option.opts[0]
        for option in command.params
        if isinstance(option, click.Option) and not (option.help or "").strip()
    ]
    require(not bare, f"no help on {', '.join(bare)}")
    for inner in getattr(command, "commands", {}).values():
        _helps(inner)


def _check_entry(entry: Entry, table: dict[str, Any]) -> list[Finding]:
    subject = f"{entry.kind} {entry.name}"
    part, problems = from_table(entry.cls, table)
    wrong = [problem for problem in problems if problem.message != "missing key"]
    if wrong and not table:  # options that go without a default, but not without each other
        needs = "; ".join(problem.message for problem in wrong)
        return [*check_class(entry.cls), Finding(subject, "behaves", "not run", needs)]
    if wrong:
        raise InputError("\n".join(map(str, wrong)), where="--set", todo=f"see `loraplug plugins show {entry.name}`")
    if part is None:
        hint = " ".join(f"--set {entry.name}.{option.name}=…" for option in options(entry.cls) if option.required)
        return [*check_class(entry.cls), Finding(subject, "behaves", "not run", f"needs options: {hint}")]
    with TemporaryDirectory() as folder:
        return conformance(part, Path(folder))
