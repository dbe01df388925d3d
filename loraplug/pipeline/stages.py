"""Wraps every stage: notifies observers, and attributes failures to a plugin."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from loraplug import files
from loraplug.config.secrets import redact
from loraplug.context import Event, Run
from loraplug.errors import LoraplugError
from loraplug.plugin.components import Component
from loraplug.plugin.registry import Registry, report

_DISK_FULL = (os.strerror(errno.ENOSPC), "Not enough disk space")  # the second is what datasets says


@contextmanager
def stage(registry: Registry, run: Run, kind: str, part: Component) -> Iterator[None]:
    """Tell observers, and put a name to whatever a plugin raises that is not one of our errors."""
    run.emit("stage-start", stage=kind, component=part.name)
    try:
        with files.wrap_os_errors(run.folder):
            yield
    except KeyboardInterrupt:
        raise
    except LoraplugError as error:
        _tell_failed(run, kind, part, error)
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        own = next(entry.plugin for entry in registry.entries if entry.cls is type(part))
        plugin = registry.blame(error) or own  # a loader calls the quantizer: whose code was it?
        todo = f"see the full error with --debug; {report(plugin)}"
        if any(words in text for words in _DISK_FULL):  # libraries wrap it in errors of their own
            todo = files.ROOM
        failed = LoraplugError(f"plugin {plugin} failed: {text}", where=f"{kind} {part.name}", todo=todo)
        _tell_failed(run, kind, part, failed)
        raise failed from error
    run.emit("stage-end", stage=kind, component=part.name)


def _tell_failed(run: Run, kind: str, part: Component, error: LoraplugError) -> None:
    if error.told:  # by the stage inside this one
        return
    error.told = True
    with suppress(OSError):  # on a full disk the error itself is what the user must hear of
        run.emit("stage-failed", stage=kind, component=part.name, error=str(error))


def observer(registry: Registry, run: Run) -> Callable[[Event], None]:
    """Writes events.jsonl in the run's folder and calls the plugins' observers; one that fails is warned of."""

    def tell(event: Event) -> None:
        if run.folder.is_dir():
            line = {"time": round(time.time(), 3), "event": event.kind, **event.data}
            with (run.folder / "events.jsonl").open("a", encoding="utf-8") as file:
                file.write(redact(json.dumps(line, default=str)) + "\n")
        for call, plugin in registry.observers:
            try:
                call(event)
            except Exception as error:
                run.warn(f"observer of plugin {plugin} failed: {error!r}; {report(plugin)}")

    return tell
