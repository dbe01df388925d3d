"""`runs watch`: a real run in another process, one killed, one that failed, damaged logs, and a terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from command import Cli
from forked import Job, Server
from loraplug import EventLog, exclusive_lock, read_run
from loraplug_tools.runs.watch import picture

METRICS = {"steps": 40, "loss": 2.5, "tokens_per_second": 90.0, "seconds": 20.0, "memory_bytes": 3e9}
EVENTS = [
    {"time": 100, "event": "stage-start", "stage": "dataset", "component": "jsonl"},
    {"time": 101, "event": "stage-end", "stage": "dataset", "component": "jsonl"},
    {"time": 102, "event": "stage-start", "stage": "trainer", "component": "sft"},
    {"time": 103, "event": "sample", "step": 0, "prompt": "one?\n\x1b[2Jtwo?", "answer": "[red]three"},
    {"time": 104, "event": "metrics", "step": 9, **METRICS},
    {"time": 105, "event": "metrics", "step": 10, **METRICS, "loss": 2.0},
    {"time": 106, "event": "metrics", "step": 10, "validation_loss": 2.25},
]


def written(folder: Path, events: list[dict[str, Any]]) -> Path:
    """A run's folder with these events."""
    place = folder / "outputs/runs/tiny"
    place.mkdir(parents=True)
    (place / ".lock").touch()
    (place / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return place


@contextmanager
def at_work(server: Server, recipe: Path, *settings: str) -> Iterator[Job]:
    """A real run in another process, killed in the end."""
    words = [word for setting in settings for word in ("--set", setting)]
    job = server.start(recipe.parent, "run", recipe, *words)
    try:
        yield job
    finally:
        if job.poll() is None:
            job.kill()


def stepped(folder: Path, process: Job, most: float = 120) -> None:
    """Wait until two steps are told of."""
    end = time.monotonic() + most
    log = EventLog(folder / "events.jsonl")
    while sum("loss" in event for event in log.read([])) < 2:
        assert process.poll() is None, process.said()
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_run_at_work_then_killed(recipe: Path, inside: Cli, server: Server, tmp_path: Path) -> None:
    """Step, loss, speed, memory, time left and a sample while it works; after SIGKILL it is said to be gone."""
    folder = tmp_path / "outputs/runs/tiny"
    with at_work(
        server, recipe, "trainer.max_steps=1000000", "trainer.samples=1", "trainer.validate_every=1"
    ) as process:
        stepped(folder, process)
        told = inside("runs", "watch", "--once")
        assert told.returncode == 0, told.stderr
        for words in (
            "tiny: running at trainer", r"step +\d+ of 1,000,000", r"loss +\d\.\d{3}", r"validation loss +\d\.\d{3} at",
            r"speed +[\d,]+ tokens/s", r"memory +\d\.\d GB", r"time left +\d.*", "answer before training",
        ):  # fmt: skip
            assert re.search(words, told.stdout), (words, told.stdout)
        assert process.poll() is None
        process.kill()
    gone = inside("runs", "watch", "tiny")
    assert gone.returncode == 1, gone.stderr
    assert "tiny: interrupted at trainer: its process died" in gone.stdout
    assert "resumes from its last checkpoint" in gone.stdout and "time left" not in gone.stdout
    assert read_run(folder).latest["memory_bytes"] > 1e8
    none = inside("runs", "watch")
    assert none.returncode == 2 and "no run is in progress" in none.stderr and "runs watch tiny" in none.stderr


def test_a_run_is_followed_to_its_end(recipe: Path, inside: Cli, server: Server, tmp_path: Path) -> None:
    """Lines while it works, where the output is no terminal; the end with the samples of before and after."""
    folder = tmp_path / "outputs/runs/tiny"
    with at_work(server, recipe, "trainer.max_steps=150", "trainer.samples=1") as process:
        stepped(folder, process)
        told = inside("runs", "watch", "tiny", "--every", "0.2")
        assert process.wait(60) == 0
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].startswith("tiny, trainer, step ") and "of 150" in lines[0]
    assert "tiny: done" in lines and "answer after step 150" in told.stdout
    assert lines[-1] == "Next: loraplug runs show tiny"
    run = read_run(folder)
    assert [sample.step for sample in run.samples] == [0, 150]
    answers = json.loads((folder / "state.json").read_text())["samples"][0]
    assert [sample.answer for sample in run.samples] == [answers["before"], answers["after"]]


def test_a_run_that_failed_says_why(tmp_path: Path, inside: Cli) -> None:
    """Its stage and its error."""
    failed = {
        "time": 107,
        "event": "stage-failed",
        "stage": "trainer",
        "component": "sft",
        "error": "no room\n  next: x",
    }
    written(tmp_path, [*EVENTS, failed])
    told = inside("runs", "watch", "tiny")
    assert told.returncode == 1
    assert told.stdout.startswith("tiny: failed at trainer\n  no room\n  next: x\n")


def test_which_run_is_meant(tmp_path: Path, inside: Cli) -> None:
    """Of several at work one must be named; a name that is none is told, with what is near."""
    other = written(tmp_path, EVENTS)
    (other.parent / "more").mkdir()
    (other.parent / "more/.lock").touch()
    with exclusive_lock(other, "tiny"), exclusive_lock(other.parent / "more", "more"):
        told = inside("runs", "watch", "--once")
        assert told.returncode == 2 and "2 runs are in progress" in told.stderr
        assert "more: running" in inside("runs", "watch", "more", "--once").stdout
    assert "did you mean tiny" in inside("runs", "watch", "tinny").stderr


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_log_is_shown_as_far_as_it_is_whole(tmp_path_factory: Any, data: st.DataObject) -> None:
    """Read in two pieces or at once it says the same; other bytes in it, or none behind a place, raise nothing."""
    folder = written(tmp_path_factory.mktemp("damaged"), EVENTS)
    path = folder / "events.jsonl"
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    spoilt = whole[:cut] + data.draw(st.binary(max_size=8)) + data.draw(st.sampled_from([b"", whole[cut + 3 :]]))
    first = data.draw(st.integers(0, len(spoilt)))
    log = EventLog(path)
    path.write_bytes(spoilt[:first])
    read_run(folder, log)
    path.write_bytes(spoilt)
    run, at_once = read_run(folder, log), read_run(folder)
    assert repr(run) == repr(at_once)
    assert all("\x1b" not in line for line in picture(run))


def test_a_log_that_is_another_one_by_now(tmp_path: Path) -> None:
    """As after --fresh: nothing of the old one is left."""
    folder = written(tmp_path, EVENTS)
    log = EventLog(folder / "events.jsonl")
    assert len(log.read([])) == len(EVENTS)
    (folder / "events.jsonl").write_text("".join(json.dumps({**event, "time": 900}) + "\n" for event in EVENTS * 2))
    assert [event["time"] for event in log.read([])] == [900] * 2 * len(EVENTS)
    (folder / "events.jsonl").unlink()
    assert log.read([]) == []


def test_silence_and_time_left(tmp_path: Path) -> None:
    """Half a minute of work for thirty steps, and that nothing was heard of for long."""
    folder = written(tmp_path, EVENTS)
    with exclusive_lock(folder, "tiny"):
        lines = picture(read_run(folder), now=106 + 240)
    assert "  time left        1 min 0 s, for training only" in lines
    assert "  last update      4 min 0 s ago" in lines
    assert "    [red]three" in lines and "    ?[2Jtwo?" in lines


def test_on_a_terminal_it_is_drawn_in_place(tmp_path: Path) -> None:
    """Again and again until the lock is free, then once more for good."""
    pty = pytest.importorskip("pty")
    folder = written(tmp_path, EVENTS)
    main, other = pty.openpty()
    command = [sys.executable, "-m", "loraplug", "runs", "watch", "tiny", "--every", "0.2"]
    env = os.environ | {"COLUMNS": "100", "LINES": "40", "TERM": "xterm"}
    told = b""
    with exclusive_lock(folder, "tiny"):
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=other, stderr=other, stdin=subprocess.DEVNULL)
        os.close(other)
        while told.count(b"running at trainer") < 3:
            told += os.read(main, 1 << 16)
    try:
        while part := os.read(main, 1 << 16):
            told += part
    except OSError:  # the other end is closed
        pass
    os.close(main)
    assert process.wait(60) == 1
    assert b"interrupted at trainer" in told and b"\x1b[2Jtwo" not in told
