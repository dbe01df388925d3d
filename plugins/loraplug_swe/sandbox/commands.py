"""Sandboxed commands that write a report to files, for languages whose test runner is a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

from loraplug_swe.sandbox.limits import Killed
from loraplug_swe.sandbox.sandbox import Sandbox
from loraplug_swe.sandbox.worker_process import SPARE, Worker

_PROGRAM = Path(__file__).with_name("command_worker.py")


@frozen
class CommandReport:
    """The result of some commands.

    Attributes:
        ended: None if all ended by themselves; else the limit that one exceeded, `crash` if it could not be run
            or killed the process that ran it, or `void` if the reply was invalid.
        exits: their exit codes; the negative signal number if a signal ended one.
        files: texts of the files in the report's folder, by name.
        said: the ends of their stdout and stderr.
        seconds: wall-clock time.
    """

    ended: Killed | str | None = None
    exits: tuple[int, ...] = ()
    files: Mapping[str, str] = field(factory=dict)
    said: tuple[str, ...] = ()
    seconds: float = 0.0


class ReportedCommands:
    """Runs commands in a sandbox, job after job, from one process that runs none of the tree's code itself.

    Child processes of a command are ended before the report is read, so a report belongs to one job. Not thread-safe;
    close it, or use it as a context manager.
    """

    def __init__(self, box: Sandbox) -> None:
        self._box = box
        self._worker: Worker | None = None

    def __enter__(self) -> ReportedCommands:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def folder(self) -> str:
        """The folder for a job's report, empty at its start."""
        return f"{self._box.environment()['TMPDIR']}/loraplug-report"

    def run(self, commands: Sequence[Sequence[str]], seconds: float, env: Mapping[str, str]) -> CommandReport:
        """Run commands in the current tree for at most `seconds`, with `env` added to the sandbox's environment.

        Raises:
            LoraplugError: the system cannot isolate it.
        """
        told = {"commands": [list(argv) for argv in commands], "env": {**self._box.environment(), **env},
                "seconds": seconds, "report": self.folder}  # fmt: skip
        job = json.dumps(told).encode()
        for _ in range(2):  # what came may have been left by the job before
            worker = self._worker if self._worker is not None and self._worker.idle else self._start()
            answer = worker.ask(b"%08x" % len(job) + job, seconds + SPARE)
            if isinstance(answer, dict):
                return _report(answer)
            self.close()
            if answer != "forged":
                self._box.check()
                killed = self._box.told()
                return CommandReport(
                    killed or ("time" if answer == "late" else "output" if answer == "full" else "crash")
                )
        return CommandReport("void")

    def close(self) -> None:
        """End the process and its children."""
        if self._worker is not None:
            worker, self._worker = self._worker, None
            worker.close()

    def _start(self) -> Worker:
        self.close()
        self._worker = Worker(self._box, [sys.executable, "-I", "-S", str(_PROGRAM)], self._box.environment())
        return self._worker


def _report(answer: Mapping[str, object]) -> CommandReport:
    seconds, said = answer.get("seconds"), answer.get("said", ())
    took = float(seconds) if isinstance(seconds, int | float) else 0.0
    words = tuple(map(str, said)) if isinstance(said, list) else ()
    if (verdict := answer.get("verdict")) is not None:
        return CommandReport(verdict if isinstance(verdict, str) else "void", said=words, seconds=took)
    exits, files = answer.get("exits"), answer.get("files")
    if not isinstance(exits, list) or not all(isinstance(one, int) for one in exits) or not isinstance(files, dict):
        return CommandReport("void")
    return CommandReport(None, tuple(exits), {str(name): str(text) for name, text in files.items()}, words, took)
