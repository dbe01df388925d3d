"""The page's tab of runs: one that is at work in another process, or was, as its files tell."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from attrs import define, field

from loraplug import EventLog, InputError, RunRecord, printable, read_run, read_runs

_WIDE, _HIGH = 640, 160
_GONE = "interrupted: its process died before the run ended"


@define
class Runs:
    """The runs under a folder of outputs. Logs that were read are kept, so that a look parses only what is new."""

    outputs: Path
    _logs: dict[str, EventLog] = field(factory=dict, init=False)

    def names(self) -> list[str]:
        """All runs, the newest first; one that is at work before the others."""
        found, _ = read_runs(self.outputs)
        return [run.name for run in sorted(found, key=lambda run: run.status != "running")]

    def html(self, name: str | None) -> str:
        """What there is to say of a run, as HTML in which all text of runs is escaped."""
        if not name:
            return "<p>No run yet.</p>"
        folder = self.outputs / "runs" / name
        if Path(name).name != name or name in (".", "..") or not folder.is_dir():
            return f"<p>{_text(name)}: this run no longer exists.</p>"
        log = self._logs.setdefault(name, EventLog(folder / "events.jsonl"))
        try:
            return page(read_run(folder, log))
        except InputError as error:
            return f"<p>{_text(name)}: {_text(error.what)}</p>"


def page(run: RunRecord) -> str:
    """One run: its state, figures, losses and samples."""
    state = _GONE if run.status == "interrupted" else run.status
    where = f" ({_text(run.stage)})" if run.stage else ""
    parts = [f"<h3>{_text(run.name)}: {state}{where}</h3>"]
    if run.error:
        parts.append(f"<pre>{_text(run.error)}</pre>")
    parts.append("<table>" + "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in run.progress()))
    parts.append("</table>")
    parts.append(_plot(run.losses, run.validations))
    for sample in run.samples:
        when = f"after step {sample.step}" if sample.step else "before training"
        parts.append(f"<p>prompt</p><pre>{_text(sample.prompt)}</pre>")
        parts.append(f"<p>answer {when}</p><pre>{_text(sample.answer)}</pre>")
    parts += [f"<p>could not be read: {_text(remark)}</p>" for remark in run.remarks]
    return f'<div id="run">{"".join(parts)}</div>'


def _text(text: str) -> str:
    return escape(printable(text))


def _plot(losses: Sequence[tuple[int, float]], validations: Sequence[tuple[int, float]]) -> str:
    """Training as a line, validation as dots, from step 0 and on one scale, with the highest and lowest loss named."""
    if not losses:
        return ""
    values = [value for _, value in (*losses, *validations)]
    low, high = min(values), max(values)
    last = max(step for step, _ in (*losses, *validations)) or 1

    def place(step: int, value: float) -> tuple[float, float]:
        up = (value - low) / (high - low) if high > low else 0.5
        return round(step / last * (_WIDE - 20) + 10, 1), round(_HIGH - 10 - up * (_HIGH - 20), 1)

    line = " ".join(f"{x},{y}" for x, y in (place(*point) for point in losses))
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="3"/>' for x, y in (place(*point) for point in validations))
    return (
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" width="100%" role="img" aria-label="losses by step">'
        f'<polyline points="{line}" fill="none" stroke="currentColor"/>{dots}</svg>'
        f"<p>loss by step, {low:.3f} to {high:.3f}; dots are validation</p>"
    )
