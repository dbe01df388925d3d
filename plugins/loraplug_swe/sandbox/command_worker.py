"""Runs commands for `loraplug_swe.sandbox.commands`, inside the sandbox.

A program, not a module: it imports nothing but the standard library and, by its path, `pipes.py`.

    command_worker.py    jobs on stdin, each answered by one line

A job comes as its length in 8 hexadecimal digits, as JSON (`commands`, `env`, `seconds`, `report`), and with a random
word of 32 characters behind it, which the answer has to begin with. Its commands run one after the other, each as a
process group of its own that has none of this process' descriptors; all that one leaves behind is ended before the next
begins and before the word is read. `report` is a folder in which they leave files: the answer holds their texts.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

KEPT = 20_000  # bytes of the end of what a command says
MOST = 64 << 20  # bytes of what it says, and of what it reports
PAUSE = 0.02  # seconds between two looks at a command that is silent
Say = dict[str, Any]


def beside(file: str) -> Any:
    """The module in a file of this folder."""
    spec: Any = util.spec_from_file_location(file.removesuffix(".py"), Path(__file__).parent / file)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from loraplug_swe.sandbox import pipes
else:
    pipes = beside("pipes.py")


def done(job: Say) -> Say:
    """Exit codes (minus a signal's number), the ends of what the commands said, and the files they have left."""
    report = Path(job["report"])
    shutil.rmtree(report, ignore_errors=True)
    report.mkdir(parents=True)
    deadline = time.monotonic() + job["seconds"]
    exits, words = [], []
    for argv in job["commands"]:
        code, said, why = run(argv, job["env"], deadline)
        if why:
            return {"verdict": why}
        exits.append(code)
        words.append(said)
    files, size = {}, 0
    for path in sorted(report.iterdir()):
        if path.is_symlink():
            return {"verdict": "void"}
        if not path.is_file():
            continue
        size += path.stat().st_size
        if size > MOST:
            return {"verdict": "output"}
        files[path.name] = path.read_text("utf-8", "replace")
    shutil.rmtree(report, ignore_errors=True)
    return {"exits": exits, "said": words, "files": files}


def run(argv: list[str], env: dict[str, str], deadline: float) -> tuple[int, str, str]:
    """One command: its exit code, the end of what it said, and what was over before its end."""
    process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    assert process.stdout is not None  # noqa: S101 - for the type checker
    try:
        said, why = listen(process, deadline)
    finally:
        if sys.platform == "win32":
            process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        pipes.end_strays()
    return process.returncode, said, why


def listen(process: subprocess.Popen[bytes], deadline: float) -> tuple[str, str]:
    """The end of what a process says until it ends, and what was over before: `time` or `output`, or nothing."""
    pipe: Any = process.stdout
    kept, size = bytearray(), 0
    while time.monotonic() < deadline:
        ended = process.poll() is not None  # before the look: what came before the end is there
        if select.select([pipe], [], [], 0 if ended else PAUSE)[0]:
            part = os.read(pipe.fileno(), 1 << 16)
            size += len(part)
            kept = (kept + part)[-KEPT:]
            if size > MOST:
                return "", "output"
            if part:
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
                ended = True
        if ended:
            return kept.decode("utf-8", "replace"), ""
    return "", "time"


def main() -> None:
    """See the module."""
    pipes.private(True)
    asked, out = pipes.keep_pipes()
    while (size := pipes.read_exactly(asked, 8)) is not None:
        job = json.loads(pipes.read_exactly(asked, int(size, 16)) or b"{}")
        begun = time.perf_counter()
        try:
            told = done(job)
        except OSError as error:  # the command cannot be started, or the disk is full
            told = {"verdict": "crash", "said": [str(error)]}
        pipes.reply(asked, out, told | {"seconds": time.perf_counter() - begun})


if __name__ == "__main__":
    main()
