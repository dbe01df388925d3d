"""What a run left in its folder, read as far as it is whole.

A run may be at work, killed in the middle of a line, or not be one of ours: nothing here trusts what it reads, and
what is left out is said in `remarks`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from attrs import Factory, frozen

from loraplug import InputError, LoraplugError, only_one

LOCK_FILE, STATE, EVENTS, METRICS, RECIPE = ".lock", "state.json", "events.jsonl", "metrics.jsonl", "recipe.lock.toml"


class UnreadableError(Exception):
    """The folder is not a run's, or is broken; the message says how."""


@frozen
class Past:
    """One run.

    Attributes:
        status: "done", "running", "interrupted", "failed" or "stopped" (by `--until`).
        stage: the stage it is in, or was in when it ended otherwise than well.
        error: what a failed stage said.
        started: of the first start, seconds since 1970; None where no event is whole.
        seconds: spent in stages, over all starts.
        starts: how often it was started and got as far as a stage.
        figures: what training came to, name to number.
        losses, validations: (step, nats per trained token), by step.
        artefacts: what was made, and whether it is still there.
        recipe: dotted key to value, as the run resolved it, with exporters where its lock file is there.
        facts: dotted key to value: what it stood on (data, base, versions).
        remarks: what could not be read.
    """

    name: str
    folder: Path
    status: str
    stage: str | None = None
    error: str | None = None
    started: float | None = None
    seconds: float = 0.0
    starts: int = 0
    figures: Mapping[str, float] = Factory(dict)
    losses: Sequence[tuple[int, float]] = ()
    validations: Sequence[tuple[int, float]] = ()
    artefacts: Mapping[str, bool] = Factory(dict)
    recipe: Mapping[str, Any] = Factory(dict)
    facts: Mapping[str, Any] = Factory(dict)
    remarks: Sequence[str] = ()


def read_all(outputs: Path) -> tuple[list[Past], dict[str, str]]:
    """The runs under `outputs`, the newest first, and what else lies beside them: name to why it cannot be read."""
    found: list[Past] = []
    strange: dict[str, str] = {}
    place = outputs / "runs"
    try:
        folders = sorted(place.iterdir()) if place.is_dir() else []
    except OSError as error:
        raise InputError(error.strerror or str(error), where=place) from None
    for folder in folders:
        try:
            found.append(read_run(folder))
        except UnreadableError as error:
            strange[folder.name] = str(error)
    return sorted(found, key=lambda run: run.started or 0.0, reverse=True), strange


def read_run(folder: Path) -> Past:
    """One run.

    Raises:
        UnreadableError: it is not a folder of a run, or its state is broken.
    """
    try:
        if not folder.is_dir():
            raise UnreadableError("not a folder")
        if not any((folder / name).is_file() for name in (LOCK_FILE, STATE, EVENTS)):
            raise UnreadableError(f"not a run's folder: no {STATE}, no {EVENTS}")
        remarks: list[str] = []
        state = _state(folder / STATE)
        events = list(_lines(folder / EVENTS, remarks))
        metrics = list(_lines(folder / METRICS, remarks))
        lock = _toml(folder / RECIPE, remarks)
    except OSError as error:
        raise UnreadableError(f"{error.strerror or error} ({error.filename or folder})") from None
    facts = dict(_flat(_table(lock, "lock")))
    facts |= {
        f"{part}.{key}": value for part in ("data", "validation", "base") for key, value in _flat(state.get(part))
    }
    recipe = dict(_flat(state.get("recipe")))
    recipe |= {key: value for key, value in _flat({"exporter": lock.get("exporter")}) if value is not None}
    figures = _numbers(_table(state, "figures"))
    artefacts = {str(place): how for place, how in _table(state, "artefacts").items()}
    status, stage, reason = _status(folder, events, bool(figures), _left(artefacts, lock))
    losses, validations = _courses([*events, *metrics], figures)
    times = [event["time"] for event in events if _is_number(event.get("time"))]
    return Past(
        name=folder.name,
        folder=folder,
        status=status,
        stage=stage,
        error=reason,
        started=times[0] if times else None,
        seconds=_at_work(events, running=status == "running"),
        starts=sum(event.get("event") == "stage-start" and event.get("stage") == "dataset" for event in events),
        figures=figures,
        losses=losses,
        validations=validations,
        artefacts={place: Path(place).exists() for place, how in artefacts.items() if how == "made"},
        recipe=recipe,
        facts=facts,
        remarks=remarks,
    )


# files


def _state(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnreadableError(f"{path.name} is broken ({error})") from None
    except RecursionError:
        raise UnreadableError(f"{path.name} is broken (nested too deep)") from None
    if not isinstance(state, dict):
        raise UnreadableError(f"{path.name} holds no table")
    return state


def _lines(path: Path, remarks: list[str]) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSON Lines file; the others are counted in `remarks`."""
    if not path.is_file():
        return
    lines = path.read_bytes().split(b"\n")
    bad = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, dict):
            yield entry
        else:
            bad += 1
    if bad:
        cut = ", the last one cut short" if lines[-1].strip() else ""
        remarks.append(f"{path.name}: {bad} of {sum(bool(line.strip()) for line in lines)} lines are broken{cut}")


def _toml(path: Path, remarks: list[str]) -> dict[str, Any]:
    import tomli

    if not path.is_file():
        return {}
    try:
        return tomli.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        remarks.append(f"{path.name}: {error}")
        return {}


def _table(parent: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = parent.get(key)
    return found if isinstance(found, dict) else {}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a table; tables in arrays by their place."""
    if isinstance(value, dict):
        inside = [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        inside = [(f"{path}[{place}]", inner) for place, inner in enumerate(value)]
    else:
        if path:
            yield path, value
        return
    for name, inner in inside:
        yield from _flat(inner, name)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(table: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in table.items() if _is_number(value)}


# what it comes to


def _courses(
    entries: Sequence[Mapping[str, Any]], figures: Mapping[str, float]
) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Losses by step; of a step that was taken again after a kill, the last counts."""
    losses: dict[int, float] = {}
    held: dict[int, float] = {}
    for entry in entries:
        step = entry.get("step")
        if not isinstance(step, int) or isinstance(step, bool):
            continue
        for course, key in ((losses, "loss"), (held, "validation_loss")):
            if _is_number(value := entry.get(key)) and math.isfinite(value):
                course[step] = float(value)
    ends = ((0, "validation_loss_before"), (max(losses, default=1), "validation_loss_after"))
    for step, key in ends:
        if math.isfinite(value := figures.get(key, math.nan)):
            held.setdefault(step, value)
    return sorted(losses.items()), sorted(held.items())


def _left(artefacts: Mapping[str, Any], lock: Mapping[str, Any]) -> int:
    """How many exports the run still has to make, as far as its lock file tells."""
    wanted = lock.get("exporter")
    made = [*artefacts.values()].count("made")
    return max(len(artefacts), len(wanted) if isinstance(wanted, list) else 0) - made


def _status(
    folder: Path, events: Sequence[Mapping[str, Any]], trained: bool, left: int
) -> tuple[str, str | None, str | None]:
    """Status, stage and error."""
    stage, last, error = None, "", None
    for event in events:
        if str(event.get("event", "")).startswith("stage-"):
            last, stage = str(event["event"]), str(event.get("stage"))
            error = str(event["error"]) if "error" in event else None
    if _held(folder):
        return "running", stage if last == "stage-start" else None, None
    if trained and not left:
        return "done", None, None
    if last == "stage-failed":
        return "failed", stage, error
    if last == "stage-end":
        return "stopped", stage, None
    return "interrupted", stage, None


def _held(folder: Path) -> bool:
    """Whether a run is at work in the folder. Its lock is tried for, and let go at once."""
    if not (folder / LOCK_FILE).is_file():
        return False
    try:
        with only_one(folder, folder.name):
            return False
    except InputError:
        return True
    except LoraplugError:  # a folder that cannot be written cannot be worked in
        return False


def _at_work(events: Sequence[Mapping[str, Any]], running: bool) -> float:
    """Seconds from each stage's start to the last sign of it."""
    total, begun, last = 0.0, None, None
    for event in events:
        if not _is_number(now := event.get("time")):
            continue
        if event.get("event") == "stage-start":
            total += (last - begun) if begun is not None and last is not None else 0.0
            begun = last = now
        elif begun is not None:
            last = now
            if event.get("event") in ("stage-end", "stage-failed"):
                total, begun = total + (last - begun), None
    if begun is not None and last is not None:
        total += (time.time() if running else last) - begun
    return max(0.0, total)
