"""The certificate as a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def page(table: Mapping[str, Any]) -> str:
    """Markdown of the facts in `Certificate.table`."""
    verdict = "All give the same answers as base + adapter." if table["passed"] else "**The answers do not agree.**"
    lines = [
        f"# Certificate of {table['run']}",
        "",
        f"The same prompts were given to `{table['base']}` with the adapter in transformers ({table['dtype']}) and to "
        f"the exported model. {verdict}",
        "",
        "| engine | prompts | prompt ids | answer tokens | KL divergence (nats per token) | limit | adapter | ends |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(one) for one in table["engines"]]
    for one in table["engines"]:
        if one["problems"]:
            lines += ["", f"## {one['name']}", "", *(f"- {problem}" for problem in one["problems"])]
    explained = [
        f"- {one['name']}, prompt {report['prompt']}, token {report['difference']['position']}: "
        f"{report['difference']['there']} for {report['difference']['here']}, "
        f"whose log-probability is only {report['difference']['margin']:.2g} nats higher"
        for one in table["engines"]
        for report in one["prompts"]
        if report["difference"] and report["difference"]["explained"]
    ]
    if explained:
        lines += ["", "## Differences that rounding explains", "", *explained]
    lines += ["", _LEGEND]
    return "\n".join(lines) + "\n"


_LEGEND = """*Prompt ids*: whether the engine's chat makes the same token ids as training. *Answer tokens*: greedy,
equal up to the first difference. *Divergence*: of the next token's probabilities, over the 100 most likely and the
rest, given the same answer so far. *Adapter*: the share of the adapter's effect that is found in the export; a dash
where rounding hides it. *Ends*: an answer ends at the token that ends a turn in training."""


def _row(one: Mapping[str, Any]) -> str:
    reports = one["prompts"]
    told = [report["prompt_equal"] for report in reports if report["prompt_equal"] is not None]
    equal = f"{sum(told)} of {len(told)} equal" if told else "not reported"
    agreed = sum(report["compared"] for report in reports)
    mean, largest = one["mean_kl"], one["largest_kl"]
    figures = "not reported" if mean is None else f"{mean:.2g}, at most {largest:.2g}"
    share = "-" if one["adapter"] is None else f"{one['adapter']:.0%}"
    ends = {True: "yes", False: "**no**", None: "not reported"}[one["ends"]]
    cells = [one["name"], len(reports), equal, f"{agreed} equal", figures, f"{one['limit']:g}", share, ends]
    return f"| {' | '.join(map(str, cells))} |"
