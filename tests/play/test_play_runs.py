"""The page's tab of runs: what it says of runs at work, dead, damaged and hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loraplug import exclusive_lock
from loraplug_serve.runs_page import Runs

EVENTS: list[dict[str, Any]] = [
    {"time": 1, "event": "stage-start", "stage": "trainer"},
    {"time": 2, "event": "sample", "step": 0, "prompt": "<script>alert(1)</script>", "answer": "<b>\x1b[2J"},
    {"time": 3, "event": "metrics", "step": 1, "steps": 4, "loss": 3.0, "seconds": 60, "tokens_per_second": 91.2},
    {"time": 4, "event": "metrics", "step": 2, "steps": 4, "loss": 2.0, "seconds": 120, "memory_bytes": 2.8e9},
    {"time": 5, "event": "metrics", "step": 2, "validation_loss": 2.5},
]


def written(outputs: Path, name: str, events: list[dict[str, Any]]) -> Path:
    """A run's folder with these events."""
    folder = outputs / "runs" / name
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def test_a_run_at_work_then_gone(tmp_path: Path) -> None:
    """Figures, a plot and samples while its lock is held; what is added shows; then that its process is gone."""
    folder = written(tmp_path, "a", EVENTS)
    written(tmp_path, "newer", [{**event, "time": 100} for event in EVENTS])
    runs = Runs(tmp_path)
    assert runs.names() == ["newer", "a"]
    with exclusive_lock(folder, "a"):
        assert runs.names() == ["a", "newer"]
        shown = runs.html("a")
        for words in (
            "a: running (trainer)", "2 of 4", "<td>2.000</td>", "2.500 at step 2", "2.8 GB", "2 min 0 s", "<polyline",
            "answer before training",
        ):  # fmt: skip
            assert words in shown
        with (folder / "events.jsonl").open("a") as log:
            log.write(json.dumps({"time": 6, "event": "metrics", "step": 3, "steps": 4, "loss": 1.5}) + "\n")
        assert "3 of 4" in runs.html("a")
    assert "its process died" in runs.html("a") and "time left" not in runs.html("a")


def test_nothing_of_a_run_becomes_markup_or_a_path(tmp_path: Path) -> None:
    """Samples, errors, stages and names are text; a name that is no run's is not looked for elsewhere."""
    failed = {"time": 9, "event": "stage-failed", "stage": "<i>x</i>", "error": "<img src=x>"}
    folder = written(tmp_path, "<u>b", [*EVENTS, failed])
    shown = Runs(tmp_path).html("<u>b")
    assert not [tag for tag in ("<script", "<b>", "<i>", "<img", "<u>", "\x1b") if tag in shown]
    assert "&lt;img src=x&gt;" in shown and "failed" in shown
    for name in ("../runs/<u>b", "..", "", None, str(folder), "gone"):
        assert "<table>" not in Runs(tmp_path).html(name)
    (folder / "state.json").write_text("{")
    assert "state.json is damaged" in Runs(tmp_path).html("<u>b")
    (folder / "state.json").unlink()
    (folder / "events.jsonl").write_bytes(b'{"time": 1}\n\xff\xfe{\n')
    assert "1 of 2 lines are damaged" in Runs(tmp_path).html("<u>b")
