"""A process that has imported what a run imports, and forks a real process for every command it is asked for.

Importing torch and transformers takes longer than a run of the tiny model. A forked command is an ordinary process
from there on: the real command line, its own files, environment and working folder, its own death. `forked.py` is the
other side.

Reads jobs from stdin, a JSON object a line, and answers each with a line:
  {"words": [...], "folder": cwd, "env": all of it, "out": file, "err": file, "script": file or null,
   "at": stage, "do": "fill" | signal, "disk": folder} -> pid
  {"poll": pid} -> exit code, negative for a signal; nothing while it runs
`words` are those of `loraplug`, or of `script`. `do` happens in the run's process when the stage `at` begins (or, as
"end:…", ends), through an observer.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TESTS = str(Path(__file__).parent)


def preload() -> None:
    """Import what runs import. Nothing is computed: a fork must not inherit threads that are not there."""
    sys.path[:] = [place for place in sys.path if place != TESTS]
    import bitsandbytes
    import datasets
    import matplotlib.pyplot
    import peft
    import transformers.generation
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import SFTTrainer

    from loraplug import load_registry
    from loraplug.cli import main

    if importlib.util.find_spec("deepspeed"):
        import deepspeed

        assert deepspeed
    assert all((bitsandbytes, datasets, matplotlib, peft, transformers.generation, SFTTrainer, main))
    assert all((AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast))
    load_registry()
    gc.collect()
    gc.freeze()  # what is here no forked process need look through


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
    from loraplug import Event, hookimpl

    when, stage = job["at"].split(":") if ":" in job["at"] else ("start", job["at"])

    def act(event: Event) -> None:
        if event.kind == f"stage-{when}" and event.data["stage"] == stage:
            if job["do"] == "fill":
                fill(Path(job["disk"]))
            else:
                os.kill(os.getpid(), job["do"])

    return SimpleNamespace(loraplug_events=hookimpl(lambda: [act]))


def become(job: dict[str, Any]) -> None:
    """Be the process of the command, to the interpreter's end: this raises SystemExit."""
    import numpy

    import loraplug
    from loraplug import load_registry
    from loraplug.cli import cli, main

    null = os.open(os.devnull, os.O_RDONLY)
    out, err = (os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("out", "err"))
    for source, target in ((null, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
        os.close(source)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it runs behind without it
    numpy.random.seed()  # the standard library's does so by itself
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["env"])
    if script := job.get("script"):
        sys.argv = [script, *job["words"]]
        sys.path.insert(0, str(Path(script).parent))
        runpy.run_path(script, run_name="__main__")
        sys.exit()
    sys.argv = [str(Path(loraplug.__file__).with_name("__main__.py")), *job["words"]]
    sys.path.insert(0, job["folder"])  # as `python -m` does
    places = [place for place in job["env"].get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[1:1] = [place for place in places if place not in sys.path]
    importlib.invalidate_caches()
    if "at" in job:
        cli.__dict__["registry"] = load_registry(extra=[("faults", observed(job))])
    main()


def serve() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # DeepSpeed tells of itself there when it is imported
    preload()
    answers.write("ready\n")
    for line in sys.stdin:
        job = json.loads(line)
        if "poll" in job:
            ended, status = os.waitpid(job["poll"], os.WNOHANG)
            answers.write(f"{os.waitstatus_to_exitcode(status)}\n" if ended else "\n")
            continue
        pid = os.fork()
        if pid == 0:
            os.close(answers.fileno())  # else the server would not be heard to end before its last command
            become(job)
        answers.write(f"{pid}\n")


if __name__ == "__main__":
    serve()
