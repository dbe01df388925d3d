"""Reads the records in a run's folder.

A run may be in progress, killed in the middle of a line, or foreign: everything is validated, and what cannot be read
is listed in `remarks`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from attrs import Factory, frozen

from loraplug.errors import InputError, LoraplugError
from loraplug.files import exclusive_lock
from loraplug.pipeline.event_log import EventLog

LOCK_FILE, STATE, EVENTS, METRICS, RECIPE = ".lock", "state.json", "events.jsonl", "metrics.jsonl", "recipe.lock.toml"

_INNER = frozenset({"transform", "model", "quantizer"})
"""Stages that work inside another one: rows are transformed while they are loaded, a trainer loads the model."""


@frozen
class SampleRecord:
    """What a model answered to a prompt after so many steps; 0 is before training."""

    step: int
    prompt: str
    answer: str


@frozen
class RunRecord:
    """One run.

    Attributes:
        status: "done", "running", "interrupted", "failed" or "stopped" (by `--until`).
        stage: the stage it is in, or was in when it ended otherwise than well.
        error: what a failed stage said.
        changed: when it last said something, seconds since 1970; None where no event is whole.
        started: of the first start, seconds since 1970; None where no event is whole.
        seconds: spent in stages, over all starts.
        starts: how often it was started and got as far as a stage.
        figures: what training came to, name to number.
        losses, validations: (step, nats per trained token), by step.
        latest: what the last training step was told with (step, steps, tokens_per_second, memory_bytes, seconds …).
        samples: prompts and what the model answered, in the order they were asked.
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
    changed: float | None = None
    seconds: float = 0.0
    starts: int = 0
    figures: Mapping[str, float] = Factory(dict)
    losses: Sequence[tuple[int, float]] = ()
    validations: Sequence[tuple[int, float]] = ()
    latest: Mapping[str, float] = Factory(dict)
    samples: Sequence[SampleRecord] = ()
    artefacts: Mapping[str, bool] = Factory(dict)
    recipe: Mapping[str, Any] = Factory(dict)
    facts: Mapping[str, Any] = Factory(dict)
    remarks: Sequence[str] = ()

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training that are left at the speed so far; None where it is not training."""
        step, steps, seconds = (self.latest.get(key, 0) for key in ("step", "steps", "seconds"))
        known = self.status == "running" and self.stage == "trainer" and 0 < step <= steps
        return (steps - step) * seconds / step if known else None

    def progress(self) -> list[tuple[str, str]]:
        """How far the training is, as names and texts for people; what a trainer does not tell is left out."""
        last, found = self.latest, []
        if "step" in last:
            of = f" of {last['steps']:,.0f}" if "steps" in last else ""
            found.append(("step", f"{last['step']:,.0f}{of}"))
        if self.losses:
            found.append(("loss", f"{self.losses[-1][1]:.3f}"))
        if self.validations:
            step, loss = self.validations[-1]
            found.append(("validation loss", f"{loss:.3f} at step {step}"))
        if "tokens_per_second" in last:
            found.append(("speed", f"{last['tokens_per_second']:,.0f} tokens/s"))
        if "memory_bytes" in last:
            found.append(("memory", f"{last['memory_bytes'] / 1e9:.1f} GB"))
        if self.seconds_left is not None:
            found.append(("time left", f"{duration(self.seconds_left)}, for training only"))
        return found


def duration(seconds: float) -> str:
    """Such as `4 s`, `3 min 20 s`, `5 h 12 min`."""
    if not math.isfinite(seconds) or seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def read_runs(outputs: Path) -> tuple[list[RunRecord], dict[str, str]]:
    """The runs under `outputs`, the newest first, and what else lies beside them: name to why it cannot be read."""
    found: list[RunRecord] = []
    strange: dict[str, str] = {}
    place = outputs / "runs"
    try:
        folders = sorted(place.iterdir()) if place.is_dir() else []
    except OSError as error:
        raise InputError(error.strerror or str(error), where=place) from None
    for folder in folders:
        try:
            run = read_run(folder)
        except InputError as error:
            strange[folder.name] = error.what
            continue
        begun = any((folder / name).is_file() for name in (STATE, EVENTS))
        if begun or run.status == "running":  # else it was refused before its first work, and left its lock file
            found.append(run)
    return sorted(found, key=lambda run: run.started or 0.0, reverse=True), strange


def read_run(folder: Path, events: EventLog | None = None) -> RunRecord:
    """One run.

    Args:
        folder: the run's folder.
        events: its log, where it is read again and again: only what was added is parsed.

    Raises:
        InputError: it is not a folder of a run, or its state is broken.
    """
    try:
        if not folder.is_dir():
            raise InputError("not a folder")
        if not any((folder / name).is_file() for name in (LOCK_FILE, STATE, EVENTS)):
            raise InputError(f"not a run folder: it has neither {STATE} nor {EVENTS}")
        remarks: list[str] = []
        # before the files are read: a run that was gone by then has written all there is
        at_work = _held(folder)
        state = _state(folder / STATE)
        told = (events or EventLog(folder / EVENTS)).read(remarks)
        metrics = EventLog(folder / METRICS).read(remarks)
        lock = _toml(folder / RECIPE, remarks)
    except OSError as error:
        raise InputError(f"{error.strerror or error} ({error.filename or folder})") from None
    facts = dict(_flat(_table(lock, "lock")))
    facts |= {
        f"{part}.{key}": value for part in ("data", "validation", "base") for key, value in _flat(state.get(part))
    }
    recipe = dict(_flat(state.get("recipe")))
    recipe |= {key: value for key, value in _flat({"exporter": lock.get("exporter")}) if value is not None}
    figures = _numbers(_table(state, "figures"))
    artefacts = {str(place): how for place, how in _table(state, "artefacts").items()}
    status, stage, reason = _status(at_work or _held(folder), told, bool(figures), _left(artefacts, lock))
    losses, validations = _courses([*told, *metrics], figures)
    times = [event["time"] for event in told if _is_number(event.get("time"))]
    return RunRecord(
        name=folder.name,
        folder=folder,
        status=status,
        stage=stage,
        error=reason,
        started=times[0] if times else None,
        changed=times[-1] if times else None,
        seconds=_at_work(told, running=status == "running"),
        starts=sum(event.get("event") == "stage-start" and event.get("stage") == "dataset" for event in told),
        figures=figures,
        losses=losses,
        validations=validations,
        latest=_latest(told),
        samples=_samples(told),
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
        raise InputError(f"{path.name} is damaged ({error})") from None
    except RecursionError:
        raise InputError(f"{path.name} is damaged (nested too deeply)") from None
    if not isinstance(state, dict):
        raise InputError(f"{path.name} is not a JSON object")
    return state


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


def _latest(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The figures of the step that was told last, as far as they are finite."""
    for event in reversed(events):
        if event.get("event") == "metrics" and "loss" in event and _is_number(event.get("step")):
            return {key: value for key, value in _numbers(event).items() if math.isfinite(value)}
    return {}


def _samples(events: Sequence[Mapping[str, Any]]) -> list[SampleRecord]:
    """Answers by step and prompt; a run that goes on tells those of before again."""
    found = {}
    for event in events:
        step, prompt, answer = (event.get(key) for key in ("step", "prompt", "answer"))
        if event.get("event") == "sample" and isinstance(prompt, str) and isinstance(answer, str):
            sample = SampleRecord(step if isinstance(step, int) else 0, prompt, answer)
            found[sample.step, prompt] = sample
    return [*found.values()]


def _status(
    at_work: bool, events: Sequence[Mapping[str, Any]], trained: bool, left: int
) -> tuple[str, str | None, str | None]:
    """Status, stage and error."""
    stage, last, error, now = None, "", None, list[str]()
    for event, now in _stages(events):  # noqa: B007 - the last of them
        if str(event.get("event", "")).startswith("stage-"):
            last, stage = str(event["event"]), str(event.get("stage"))
            error = str(event["error"]) if "error" in event else None
    if at_work:
        return "running", now[-1] if now else None, None
    if trained and not left:
        return "done", None, None
    if last == "stage-failed":
        return "failed", stage, error
    if last == "stage-end" and not now:
        return "stopped", stage, None
    return "interrupted", now[-1] if now else stage, None


def _stages(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], list[str]]]:
    """Every event with the stages that are at work after it, the innermost last."""
    stack: list[str] = []
    for event in events:
        kind, stage = event.get("event"), str(event.get("stage"))
        if kind == "stage-start":
            stack = [*stack, stage] if stack and stage in _INNER else [stage]
        elif kind in ("stage-end", "stage-failed"):
            stack = stack[:-1] if stack and stack[-1] == stage else []
        yield event, stack


def _held(folder: Path) -> bool:
    """Whether a run is at work in the folder. Its lock is tried for, and let go at once."""
    if not (folder / LOCK_FILE).is_file():
        return False
    try:
        with exclusive_lock(folder, folder.name):
            return False
    except InputError:
        return True
    except LoraplugError:  # a folder that cannot be written cannot be worked in
        return False


def _at_work(events: Sequence[Mapping[str, Any]], running: bool) -> float:
    """Seconds from each outermost stage's start to the last sign of it."""
    total, begun, last = 0.0, None, None
    for event, stack in _stages(events):
        if not _is_number(now := event.get("time")):
            continue
        if event.get("event") == "stage-start" and len(stack) == 1:
            total += (last - begun) if begun is not None and last is not None else 0.0
            begun = last = now
        elif begun is not None:
            last = now
            if not stack:
                total, begun = total + (last - begun), None
    if begun is not None and last is not None:
        total += (time.time() if running else last) - begun
    return max(0.0, total)
