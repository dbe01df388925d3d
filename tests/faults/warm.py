"""A process that has imported what a run imports, and forks a real process for every run it is asked for.

Importing torch and transformers takes longer than a run of the tiny model, and writes nothing; so kills would mostly
hit imports. A forked run is an ordinary process from there on: the real command line, its own files, its own death.

Reads jobs from stdin, a JSON object a line, and answers each with a line:
  {"start": [words], "folder": cwd, "log": file, "env": {}, "at": stage, "do": "fill" | signal, "disk": folder} -> pid
  {"wait": pid} -> exit code, negative for a signal
`do` happens in the run's process when the stage `at` begins (or, as "end:…", ends), through an observer.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from loraplug import Event, hookimpl, load_registry
from loraplug.cli import cli, main


def preload() -> None:
    """Import what runs import. Nothing is computed: a fork must not inherit threads that are not there."""
    import datasets
    import matplotlib.pyplot
    import peft
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    assert all((datasets, matplotlib, peft, trl, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM))
    load_registry()


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue


def observed(job: dict[str, Any]) -> Any:
    """A plugin whose observer does what the job wants at the stage it wants."""
    when, stage = job["at"].split(":") if ":" in job["at"] else ("start", job["at"])

    def act(event: Event) -> None:
        if event.kind == f"stage-{when}" and event.data["stage"] == stage:
            if job["do"] == "fill":
                fill(Path(job["disk"]))
            else:
                os.kill(os.getpid(), job["do"])

    return SimpleNamespace(loraplug_events=hookimpl(lambda: [act]))


def run(job: dict[str, Any]) -> None:
    """Become the run. Never returns."""
    code = 99
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it runs behind without it
        os.chdir(job["folder"])
        os.environ.update(job.get("env", {}))
        if "at" in job:
            cli.__dict__["registry"] = load_registry(extra=[("faults", observed(job))])
        main(job["start"])
    except SystemExit as done:
        code = int(done.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Answer until stdin ends."""
    preload()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    answers.write("ready\n")
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            _, status = os.waitpid(job["wait"], 0)
            answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
            continue
        pid = os.fork()
        if pid == 0:
            run(job)
        answers.write(f"{pid}\n")


if __name__ == "__main__":
    serve()
