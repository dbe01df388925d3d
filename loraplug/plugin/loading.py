"""Loads one plugin, isolating whatever its module does at import."""

from __future__ import annotations

import ast
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import attrs
import pluggy

from loraplug.errors import PluginError
from loraplug.plugin import contracts, hookspecs
from loraplug.plugin.components import HOOKS
from loraplug.plugin.installed import Plugin
from loraplug.printing import echo

NAMES = (*HOOKS, "loraplug_commands", "loraplug_events", "loraplug_diagnostics")
SLOW = 0.5
"""Seconds from which on the loading of a plugin is told of."""
Found = dict[str, list[Any]]


class _Asked:
    """Whether the user, and not the module, asked for the end while it was loading."""

    def __init__(self) -> None:
        self.now = False


def load(plugin: Plugin, load: Callable[[], Any]) -> tuple[Plugin, Found]:
    """Load a plugin and ask its hooks; gives it with what it brings, or with the reason why it brings nothing.

    Raises:
        KeyboardInterrupt, SystemExit: the user interrupted it, or the system ended the program.
    """
    began, said = time.perf_counter(), StringIO()
    with _told_apart() as asked:
        try:
            with redirect_stdout(said):  # standard output is for what a command answers, which may be JSON
                found = _ask(plugin, load())
        except BaseException as error:  # SystemExit, KeyboardInterrupt and CancelledError included
            if asked.now:
                error.add_note(f"while plugin {plugin} was being loaded")
                raise
            status = "incompatible" if isinstance(error, contracts.IncompatibleError) else "broken"
            other = None if status == "incompatible" else _other_version(plugin)
            status, reason = ("incompatible", other) if other else (status, _reason(error))
            return attrs.evolve(plugin, status=status, reason=reason, seconds=time.perf_counter() - began), {}
        finally:
            if said.getvalue():
                echo(said.getvalue(), err=True, nl=False)  # where its warnings go, too
    seconds = time.perf_counter() - began
    notes = [f"takes {seconds:.1f} s to load, in every command"] if seconds >= SLOW else []
    notes += ["prints when it is loaded"] if said.getvalue() else []
    return attrs.evolve(plugin, notes=tuple(notes), seconds=seconds), found


def _ask(plugin: Plugin, module: Any) -> Found:
    contracts.check_version(plugin, getattr(module, contracts.DECLARED, None))
    contracts.check_hooks(module, NAMES)
    # a manager each: pluggy's check_pending speaks for a whole manager, and a broken plugin must only break itself
    manager = pluggy.PluginManager("loraplug")
    manager.add_hookspecs(hookspecs)
    manager.register(module, plugin.name)
    manager.check_pending()
    found = {name: [item for items in getattr(manager.hook, name)() for item in items] for name in NAMES}
    for hook, kind in HOOKS.items():
        for cls in found[hook]:
            contracts.check_class(cls, kind, types=plugin.distribution != contracts.BUILT_IN)
    contracts.check_others(found)
    return found


def _other_version(plugin: Plugin) -> str | None:
    """What is wrong with the version that the module's text names; one made for another may not even import."""
    try:
        spec = find_spec(plugin.module) if plugin.module else None
        tree = ast.parse(Path(str(spec and spec.origin)).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign) and [ast.unparse(name) for name in node.targets] == [contracts.DECLARED]:
                contracts.check_version(plugin, ast.literal_eval(node.value))
    except contracts.IncompatibleError as error:
        return _reason(error)
    except Exception:  # the module's own failure is what is told then
        return None
    return None


@contextmanager
def _told_apart() -> Iterator[_Asked]:
    """A KeyboardInterrupt that the module raises is a fault of its own; one that a signal brings ends the program."""
    asked, before = _Asked(), dict[int, Any]()

    def noted(number: int, frame: Any) -> None:
        asked.now = True
        before[number](number, frame)

    try:
        for kind in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(kind)):
                before[kind] = handler
                signal.signal(kind, noted)
    except ValueError:  # not the program's main thread, where no signal arrives
        before.clear()
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reason(error: BaseException) -> str:
    text = error.what if isinstance(error, PluginError) else f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, PluginError) and error.todo:
        text += f"; {error.todo}"
    if isinstance(error, pluggy.PluginValidationError):
        match = re.search(r"unknown hook '?(\w+)'?", text)
        near = get_close_matches(match[1], NAMES, n=1) if match else []
        text = f"unknown hook {match[1]}" if match else text
        text += f" (did you mean {near[0]}?)" if near else ""
    return " ".join(text.split())
