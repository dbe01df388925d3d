"""Runs as text and as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loraplug import Registry, RunRecord, as_toml, duration, options
from loraplug_tools.runs.formatting import clipped, number, printable, shown, sparkline, table, when, width

_BYTES = "_bytes"


def as_data(run: RunRecord) -> dict[str, Any]:
    """Everything there is to know, as JSON values."""
    return {
        "name": run.name,
        "folder": str(run.folder),
        "status": run.status,
        "stage": run.stage,
        "error": run.error,
        "started": run.started,
        "seconds": round(run.seconds, 3),
        "starts": run.starts,
        "figures": dict(run.figures),
        "losses": [list(point) for point in run.losses],
        "validations": [list(point) for point in run.validations],
        "artefacts": [{"path": path, "exists": exists} for path, exists in run.artefacts.items()],
        "recipe": dict(run.recipe),
        "facts": dict(run.facts),
        "remarks": list(run.remarks),
    }


def listed(found: Sequence[RunRecord], strange: dict[str, str]) -> list[str]:
    """A line a run."""
    head = ("RUN", "STATUS", "LOSS", "VALIDATION", "STARTED", "AT WORK", "STEPS", "MADE", "DIFFERENT")
    varied = differences([run for run in found if run.recipe], facts=False)
    wide = width()
    rows = []
    for run in found:
        held = [value for _, value in run.validations]
        said = [f"{key}={_said(run.recipe[key])}" for key in varied if run.recipe.get(key) is not None]
        rows.append(
            (
                clipped(run.name, max(20, wide * 3 // 10)),
                _status(run),
                f"{run.losses[-1][1]:.3f}" if run.losses else "",
                " to ".join(f"{value:.3f}" for value in dict.fromkeys((held[0], held[-1]))) if held else "",
                when(run.started),
                duration(run.seconds),
                str(run.losses[-1][0]) if run.losses else "",
                ", ".join(dict.fromkeys(_kind(path) for path, exists in run.artefacts.items() if exists)),
                " ".join(said),
            )
        )
    fixed = [max(map(len, column)) for column in zip(head[:-1], *(row[:-1] for row in rows), strict=True)]
    room = wide - sum(fixed) - 2 * len(fixed)
    if room >= 20:
        rows = [(*row[:-1], clipped(row[-1], room)) for row in rows]
    lines = table(head, rows, wide) if rows else []
    for run in found:
        lines += [clipped(f"{run.name}: {remark}", wide) for remark in run.remarks]
    return [*lines, *(clipped(f"{name}: unreadable: {why}", wide) for name, why in strange.items())]


def _status(run: RunRecord) -> str:
    words = {"interrupted": "at", "running": "at", "failed": "at", "stopped": "after"}
    return f"{run.status} {words[run.status]} {run.stage}" if run.stage and run.status in words else run.status


def _kind(path: str) -> str:
    """`merged` of `…/merged/tiny`."""
    parts = path.replace("\\", "/").rstrip("/").split("/")
    return parts[-2].removesuffix("s") if len(parts) > 1 else path


def _said(value: Any) -> str:
    text = shown(value)
    return text.strip('"').rsplit("/", 1)[-1] if isinstance(value, str) else text


def page(run: RunRecord, registry: Registry) -> list[str]:
    """One run, in full."""
    wide = width()
    lines = [f"{printable(run.name)}: {_status(run)}"]
    facts = [("why", run.error or ""), ("started", when(run.started))]
    again = f", started {run.starts} times" if run.starts > 1 else ""
    facts += [("at work", duration(run.seconds) + again)]
    for key in ("data", "validation", "base"):
        rows, digest = run.facts.get(f"{key}.rows"), run.facts.get(f"{key}.sha256")
        told = [f"{rows} rows" if rows is not None else "", f"sha256 {str(digest)[:12]}" if digest else ""]
        facts.append((key, ", ".join(filter(None, told))))
    lines += [clipped(f"  {name:16} {text}", wide) for name, text in facts if text]
    lines += _section("losses, nats per trained token", _courses([run], wide - 4))
    lines += _section("figures", [f"{_name(key):24} {_figure(key, value)}" for key, value in run.figures.items()])
    lines += _section("recipe values other than the defaults", _own_values(run, registry))
    gone = {True: "", False: "  (no longer exists)"}
    lines += _section("made", [f"{path}{gone[exists]}" for path, exists in run.artefacts.items()])
    kept = [
        name for name in ("loss.svg", "loss.png", "metrics.jsonl", "recipe.lock.toml") if (run.folder / name).exists()
    ]
    lines += _section("in its folder", [f"{run.folder}", *([", ".join(kept)] if kept else [])])
    lines += _section("not read", run.remarks)
    return lines


def _section(title: str, inside: Sequence[str]) -> list[str]:
    return ["", f"  {title}", *(f"    {printable(line).rstrip()}" for line in inside)] if inside else []


def _courses(found: Sequence[RunRecord], wide: int) -> list[str]:
    """Sparklines of training and validation, all on one scale."""
    values = [value for run in found for _, value in (*run.losses, *run.validations)]
    if not values:
        return []
    low, high, last = min(values), max(values), max((run.losses[-1][0] for run in found if run.losses), default=1)
    lines = []
    for run in found:
        for kind, points in (("training", run.losses), ("validation", run.validations)):
            if points:
                label = kind if len(found) == 1 else f"{clipped(run.name, max(4, min(20, wide // 2 - 20)))} {kind}"
                told = f"{points[0][1]:.3f} to {points[-1][1]:.3f}"
                lines.append((label, points, told))
    most = max(len(label) for label, _, _ in lines)
    size = min(100, wide - most - max(len(told) for *_, told in lines) - 4)
    size = max(1, min(size, last))
    return [
        f"{label:{most}}  {sparkline(points, size, low, high, last):{size}}  {told}" for label, points, told in lines
    ]


def _name(key: str) -> str:
    return key.removesuffix(_BYTES).replace("_", " ")


def _figure(key: str, value: float) -> str:
    if key.endswith(_BYTES):
        return f"{value / 1e9:.2f} GB"
    if "loss" in key:
        return f"{value:.3f}"
    return duration(value) if key == "seconds" and value >= 60 else number(value)


def _own_values(run: RunRecord, registry: Registry) -> list[str]:
    """Recipe values that are not what their components have as defaults."""
    defaults: dict[str, Any] = {"seed": 42}
    for part in dict.fromkeys(key.partition(".")[0] for key in run.recipe):
        use, kind = run.recipe.get(f"{part}.use"), _group(part)
        entries = [entry for entry in registry.named(use) if entry.kind == kind] if isinstance(use, str) else []
        for entry in entries[:1]:
            defaults |= {f"{part}.{key}": value for key, value in _defaults(entry.cls).items()}
    return [
        f"{key} = {shown(value)}"
        for key, value in run.recipe.items()
        if key != "run_name" and value is not None and not _same(value, defaults.get(key))
    ]


def _defaults(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option in options(cls):
        if option.nested is not None:
            found |= {f"{option.name}.{key}": value for key, value in _defaults(option.nested).items()}
        elif not option.required:
            found[option.name] = as_toml(option.default)
    return found


def _same(value: Any, default: Any) -> bool:
    return bool(
        list(value) == list(default) if isinstance(value, list) and isinstance(default, tuple) else value == default
    )


def differences(found: Sequence[RunRecord], facts: bool = True) -> dict[str, list[Any]]:
    """Dotted keys on which the runs differ, and each run's value (None where it has none).

    A run that has nothing of a key's table (it was stopped before that was written) does not make a difference.
    """
    tables = [{**run.recipe, **(dict(run.facts) if facts else {})} for run in found]
    told = [{_group(key) for key in one} for one in tables]
    varied: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for one in tables for key in one if key not in ("run_name", "folder")):
        known = [one.get(key) for one, groups in zip(tables, told, strict=True) if _group(key) in groups]
        if any(value != known[0] for value in known):
            varied[key] = [one.get(key) for one in tables]
    return varied


def _group(key: str) -> str:
    return key.partition(".")[0].partition("[")[0]


def compared(found: Sequence[RunRecord]) -> list[str]:
    """Figures, losses and differences side by side."""
    wide = width()
    names = list(dict.fromkeys(key for run in found for key in run.figures))
    rows = [["status", *map(_status, found)], ["started", *(when(run.started) for run in found)]]
    rows += [["at work", *(duration(run.seconds) for run in found)]]
    for key in names:
        rows.append([_name(key), *(_figure(key, run.figures[key]) if key in run.figures else "" for run in found)])
    lines = _side_by_side(["", *(run.name for run in found)], rows, wide)
    lines += [clipped(line, wide) for line in _section("losses, nats per trained token", _courses(found, wide - 4))]
    varied = differences(found)
    rows = [[key, *("" if value is None else shown(value) for value in values)] for key, values in varied.items()]
    lines += ["", "  the same recipe, on the same data and base" if not rows else "  different"]
    lines += [f"  {line}" for line in _side_by_side(["", *(run.name for run in found)], rows, wide - 2)] if rows else []
    return [*lines, *(f"{printable(run.name)}: {remark}" for run in found for remark in run.remarks)]


def _side_by_side(head: Sequence[str], rows: Sequence[Sequence[str]], wide: int) -> list[str]:
    """A table, its cells clipped where that makes it fit; a block a row where even that would not."""
    first = max(len(printable(row[0])) for row in [head, *rows])
    room = (wide - first) // (len(head) - 1) - 2
    longest = max(len(printable(cell)) for row in [head, *rows] for cell in row[1:])
    if room >= min(longest, 12):
        cells = [[row[0], *(clipped(cell, room) for cell in row[1:])] for row in [head, *rows]]
        return table(cells[0], cells[1:], wide)
    lines = []
    for row in rows:
        lines.append(printable(row[0]))
        pairs = [(clipped(name, wide // 2), cell) for name, cell in zip(head[1:], row[1:], strict=True)]
        lines += [clipped(f"  {name}: {cell}", wide) for name, cell in pairs if cell]
    return lines
