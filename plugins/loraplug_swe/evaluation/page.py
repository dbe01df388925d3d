"""The report as one self-contained HTML page; all text from models and tasks is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from loraplug_swe.evaluation.results import Result
from loraplug_swe.evaluation.table import paired_line, rows, unfit_counts


def page(title: str, told: Mapping[str, Any], cases: Mapping[str, Mapping[str, str]], results: Sequence[Result]) -> str:
    """The page.

    Args:
        told: the report.
        cases: of each task `kind`, `place`, `instruction` and `bug` (the patch that injected it).
        results: of all models.
    """
    by_task: dict[str, list[Result]] = {}
    for one in results:
        by_task.setdefault(one.task, []).append(one)
    body = [_table(told)]
    if pair := told.get("paired"):
        body.append(f"<p>{escape(paired_line(pair))}</p>")
    if told.get("unfit"):
        listed = "".join(
            f"<li>{escape(one['task'])}: {escape(one['reason'])} <small>{escape(one['detail'])}</small></li>"
            for one in told["unfit"]
        )
        counted = escape("; ".join(unfit_counts(told["unfit"])))
        body.append(
            f"<details><summary>{len(told['unfit'])} tasks left out ({counted})</summary><ul>{listed}</ul></details>"
        )
    settings = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in told["settings"].items()
    )
    body.append(f"<details><summary>settings</summary><table>{settings}</table></details><h2>Tasks</h2>")
    body += [_case(name, case, by_task.get(name, [])) for name, case in cases.items()]
    return _PAGE.replace("{title}", escape(title)).replace("{body}", "\n".join(body))


def _table(told: Mapping[str, Any]) -> str:
    heads, cells = rows(told)
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    lines = "".join(
        f"<tr class='{'all' if row[0] == 'all' else ''}'>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in cells
    )
    return f"<table><tr>{head}</tr>{lines}</table>"


def _case(name: str, case: Mapping[str, str], results: Sequence[Result]) -> str:
    badges = " ".join(f"<span class='{one.status}'>{escape(one.model)}: {one.status}</span>" for one in results[:8])
    answers = "".join(_answer(one) for one in results)
    bug = f"<h3>the injected bug</h3>{_diff(case['bug'])}" if case["bug"] else ""
    return (
        f"<details><summary><b>{escape(name)}</b> {escape(case['kind'])} <code>{escape(case['place'])}</code> {badges}"
        f"</summary><h3>prompt</h3><pre>{escape(case['instruction'])}</pre>{bug}{answers}</details>"
    )


def _answer(one: Result) -> str:
    why = ": ".join(part for part in (one.reason, one.detail) if part)
    facts = f"{one.tokens} tokens, {one.seconds:.1f} s, ended by {one.finish}" if one.finish != "given" else "given"
    leniently = "" if one.exact else ", applied with leniency"
    diff = f"<h4>what it changes</h4>{_diff(one.diff)}" if one.diff else ""
    return (
        f"<h3>{escape(one.model)}, answer {one.sample + 1}: <span class='{one.status}'>{one.status}</span></h3>"
        f"<p>{escape(why)} <small>({escape(facts)}{leniently})</small></p><pre>{escape(one.answer)}</pre>{diff}"
    )


def _diff(text: str) -> str:
    marks = {"+": "add", "-": "del", "@": "at"}
    return "<pre>" + "\n".join(
        f"<span class='{marks[line[0]]}'>{escape(line)}</span>" if line[:1] in marks else escape(line)
        for line in text.rstrip("\n").split("\n")
    ) + "</pre>"  # fmt: skip


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>
:root { color-scheme: light dark; --line: #8885 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .7rem; border-bottom: 1px solid var(--line); text-align: left }
tr.all { font-weight: bold }
details { border-bottom: 1px solid var(--line); padding: .3rem 0 }
summary { cursor: pointer }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; background: #8881; padding: .6rem }
.resolved, .applied, .invalid, .flagged, .void { padding: 0 .4rem; border-radius: .3rem; color: #fff; font-size: .85em }
.resolved { background: #197a35 } .applied { background: #8a6500 } .invalid { background: #a32020 }
.flagged { background: #6b3fa0 } .void { background: #555 }
.add { color: #197a35 } .del { color: #c03030 } .at { color: #6a6af0 }
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""
