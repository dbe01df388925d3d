"""The report as one HTML page that loads nothing: all that models and tasks say is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from loraplug_swe.improve.report import share

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 240, 48, 28  # of the chart, in pixels
_STEPS = ("train", "bugs", "ask", "compare")


def page(told: Mapping[str, Any]) -> str:
    """The page; `told` is what `loraplug_swe.improve.report.report` gives."""
    rounds = told["rounds"]
    ended = f"{told['minutes']:.1f} minutes of work" + (f"; ended: {told['why']}" if told["why"] else "")
    body = [
        f"<p>Best: {_name(told['best'])}. {escape(ended)}.</p>",
        "<h2>Held-out bugs fixed, by round</h2>", _chart(rounds, told["best"]), _rounds(rounds, told["best"]),
        "<h2>Held-out bugs fixed, by kind</h2>", _kinds(rounds, "held"),
        "<h2>Answers that passed, by kind of the bug asked about</h2>", _kinds(rounds, "asked"),
        "<h2>Losses of rows held out</h2>", _losses(rounds),
        "<h2>Minutes</h2>", _minutes(rounds),
        "<h2>Held-out bugs gained and lost</h2>", *(list(_examples(rounds)) or ["<p>None.</p>"]),
    ]  # fmt: skip
    title = escape(f"Improved: {told['name']}")
    return _PAGE.replace("{title}", title).replace("{body}", "\n".join(body))


def _name(number: int) -> str:
    return f"round {number}" if number else "the first training"


def _chart(rounds: Sequence[Mapping[str, Any]], best: int) -> str:
    """Rates with their intervals, a column for each round that was trained."""
    shown = [one for one in rounds if "held" in one]
    top = max((one["held"]["all"]["interval"][1] for one in shown), default=1.0) or 1.0
    step = next(step for step in (0.02, 0.05, 0.1, 0.2, 0.25) if top / step <= 5 or step == 0.25)
    parts = []
    mark = 0.0
    while mark <= top:
        y = _y(mark, top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
                     f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{mark:.0%}</text>')  # fmt: skip
        mark += step
    column = (_WIDTH - _LEFT) / max(1, len(shown))
    for at, one in enumerate(shown):
        found = one["held"]["all"]
        x = _LEFT + column * (at + 0.5)
        low, high = (_y(bound, top) for bound in found["interval"])
        kept = not one["round"] or one["kept"]
        style = "best" if one["round"] == best else "kept" if kept else "not"
        parts.append(
            f'<g class="{style}"><title>{escape(_name(one["round"]))}: {escape(share(found))}</title>'
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{high:.1f}" y2="{low:.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{_y(found["rate"], top):.1f}" r="5"/></g>'
            f'<text x="{x + 10:.1f}" y="{_y(found["rate"], top) - 6:.1f}">{found["rate"]:.1%}</text>'
            f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{one["round"] or "first"}</text>'
        )
    return (f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="rates by round">{"".join(parts)}</svg>'
            "<p><small>95 % score intervals. Filled: kept; hollow: not kept.</small></p>")  # fmt: skip


def _y(rate: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - 16) * rate / top


def _rounds(rounds: Sequence[Mapping[str, Any]], best: int) -> str:
    heads = ["round", "fixed", "rate, 95 %", "gained", "lost", "p", "asked", "solved", "flagged, void", "rows", "gold",
             "pairs", "rollouts", "replay", "minutes", ""]  # fmt: skip
    return _table(heads, (_row(one, best) for one in rounds))


def _row(one: Mapping[str, Any], best: int) -> list[str]:
    held, asked, made = one.get("held", {}).get("all"), one.get("asked", {}).get("all"), one.get("rows", {})
    fixed = [f"{held['resolved']} of {held['bugs']}", share(held)] if held else ["", ""]
    paired = [str(len(one["gained"])), str(len(one["lost"])), f"{one['p']:.2g}"] if "gained" in one else ["", "", ""]
    answers = [str(asked["bugs"]), str(asked["solved"]), f"{asked['flagged']}, {asked['void']}"] if asked else [""] * 3
    state = ("kept" if one["kept"] else "not kept" if one["trained"] else one["why"]) if one["round"] else ""
    return [str(one["round"]), *fixed, *paired, *answers,
            *(str(made.get(name, "")) for name in ("answers", "gold", "pairs", "rollouts", "replay")),
            f"{sum(one['minutes'].values()):.1f}", "the best" if one["round"] == best else state]  # fmt: skip


def _kinds(rounds: Sequence[Mapping[str, Any]], which: str) -> str:
    shown = [one for one in rounds if which in one]
    kinds = sorted({kind for one in shown for kind in one[which]} - {"all"})
    heads = ["kind", *(escape(_name(one["round"])) for one in shown)]
    return _table(heads, ([kind, *(_cell(one[which].get(kind)) for one in shown)] for kind in ["all", *kinds]))


def _cell(found: Mapping[str, Any] | None) -> str:
    return f"{found['resolved']} of {found['answers']} ({share(found)})" if found else ""


def _losses(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Before and after each training, in all and of each data set: what is forgotten shows here."""
    shown = [one for one in rounds if one.get("losses")]
    start, end = "validation_loss_before", "validation_loss_after"
    keys = sorted({key.removeprefix(start) for one in shown for key in one["losses"] if key.startswith(start)})
    rows = (
        [
            key.lstrip("/") or "all",
            *(_change(one["losses"].get(start + key), one["losses"].get(end + key)) for one in shown),
        ]
        for key in keys
    )
    return _table(["rows", *(_name(one["round"]) for one in shown)], rows)


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{before:.3f} to {after:.3f} ({after / before - 1:+.1%})"


def _minutes(rounds: Sequence[Mapping[str, Any]]) -> str:
    names = {"train": "training", "bugs": "making bugs", "ask": "asking and testing", "compare": "held-out bugs"}
    rows = ([_name(one["round"]), *(f"{one['minutes'].get(step, 0.0):.1f}" for step in _STEPS)] for one in rounds)
    return _table(["", *(names[step] for step in _STEPS)], rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table><tr>{head}</tr>{body}</table></div>"


def _examples(rounds: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for one in rounds:
        for example in one.get("examples", ()):
            place = f"{example['kind']} <code>{escape(example['place'])}</code>" if example["place"] else ""
            shown = example["diff"] or example["answer"]
            why = f"<p>{escape(example['reason'])}</p>" if example["reason"] else ""
            yield (
                f"<details><summary><span class='{example['how']}'>{example['how']}</span> {_name(one['round'])}: "
                f"<b>{escape(example['task'])}</b> {place}</summary><h3>asked</h3>"
                f"<pre>{escape(example['question'])}</pre><h3>answered now</h3>{why}<pre>{escape(shown)}</pre>"
                "</details>"
            )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>
:root { color-scheme: light dark; --line: #8885; --accent: #19837a }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px }
td, th { padding: .15rem .7rem .15rem 0; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
svg { max-width: 40rem; width: 100%; font: 12px system-ui, sans-serif; fill: currentColor }
svg line { stroke: var(--accent); stroke-width: 2 } svg .grid { stroke: var(--line); stroke-width: 1 }
circle { fill: var(--accent); stroke: var(--accent); stroke-width: 2 } .not circle { fill: Canvas }
.best circle { r: 7 }
details { border-bottom: 1px solid var(--line); padding: .3rem 0 } summary { cursor: pointer }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; background: #8881; padding: .6rem }
.gained, .lost { padding: 0 .4rem; border-radius: .3rem; color: #fff; font-size: .85em }
.gained { background: #197a35 } .lost { background: #a32020 }
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""
