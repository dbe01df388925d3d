"""The observer `MyPart`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from loraplug import Event

FILE = "MY_PACKAGE_FILE"
"""The environment variable that names the file to write; unset, nothing is written."""


class MyPart:
    """Appends one JSON line for each finished stage: run, stage, component, seconds, the last loss."""

    def __init__(self) -> None:
        self.begun: dict[tuple[str, str], float] = {}
        self.loss: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Take one event; kinds that it does not know are passed over."""
        if event.kind == "metrics" and "loss" in event.data:
            self.loss[event.run_name] = event.data["loss"]
        elif event.kind == "stage-start":
            self.begun[event.run_name, event.data["stage"]] = time.monotonic()
        elif event.kind == "stage-end":
            self._write(event)

    def _write(self, event: Event) -> None:
        begun = self.begun.pop((event.run_name, event.data["stage"]), None)
        if begun is None or not os.environ.get(FILE):
            return
        line = {"run": event.run_name, "stage": event.data["stage"], "component": event.data["component"]}
        told = line | {"seconds": round(time.monotonic() - begun, 3), "loss": self.loss.get(event.run_name)}
        with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")
