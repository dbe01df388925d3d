"""Commands in a sandbox that leave a report in files: for the tests of languages whose runner is a program."""

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
    """How some commands ended.

    Attributes:
        ended: None where all ended by themselves; else the limit one was ended for, `crash` where it could not be run
            or took the process that ran it along, or `void` where something else than one answer came.
        exits: their exit codes; minus the number of the signal that ended one.
        files: texts of the files that they left in the report's folder, by name.
        said: the ends of what they wrote to stdout and stderr.
        seconds: wall-clock time.
    """

    ended: Killed | str | None = None
    exits: tuple[int, ...] = ()
    files: Mapping[str, str] = field(factory=dict)
    said: tuple[str, ...] = ()
    seconds: float = 0.0


class ReportedCommands:
    """Runs commands in a box, job after job, by one process that runs none of the tree's code itself.

    What a command has started is ended before the report is read, so that a report is of one job alone. Use from one
    thread; close it, or use it as a context manager.
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
        """Where a job leaves its report: a folder that is empty when it starts."""
        return f"{self._box.environment()['TMPDIR']}/loraplug-report"

    def run(self, commands: Sequence[Sequence[str]], seconds: float, env: Mapping[str, str]) -> CommandReport:
        """Run commands in the tree as it is now, at most `seconds`, with `env` on top of the box's environment.

        Raises:
            LoraplugError: the system cannot shut it in.
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
        """End the process, and all that runs inside."""
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
