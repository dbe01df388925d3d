"""The results of an evaluation as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def rows(told: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table: for each model all tasks, then each kind of bug."""
    models = told["models"]
    ks = [k for k in next(iter(models.values()))["all"]["pass_at"] if k != "1"] if models else []
    heads = ["kind", "model", "tasks", "answers", "resolved", "applied", "invalid", "flagged", "void", "rate", "95 %",
             *(f"pass@{k}" for k in ks)]  # fmt: skip
    cells = [_row("all", model, each["all"], ks) for model, each in models.items()]
    kinds = list(next(iter(models.values()))["kinds"]) if models else []
    cells += [
        _row(kind or "(none told)", model, each["kinds"][kind], ks) for kind in kinds for model, each in models.items()
    ]
    return heads, cells


def lines(told: Mapping[str, Any]) -> Iterator[str]:
    """The table, followed by the reasons why answers failed."""
    heads, cells = rows(told)
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    for each in [heads, *cells]:
        yield "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(each, widths, strict=True))
        ).rstrip()
    for model, each in told["models"].items():
        if each["all"]["reasons"]:
            told_reasons = ", ".join(f"{count} {reason}" for reason, count in each["all"]["reasons"].items())
            yield f"{model}, not resolved: {told_reasons}"
    if pair := told.get("paired"):
        yield paired_line(pair)
    for model, counts in told.get("turns", {}).items():
        yield f"{model}, resolved within 1, 2, … turns: {', '.join(map(str, counts))}"
    if told.get("unfit"):
        yield f"left out: {len(told['unfit'])} tasks (" + ", ".join(unfit_counts(told["unfit"])) + ")"


def paired_line(pair: Mapping[str, Any]) -> str:
    """A model against its base, task by task."""
    return (
        f"first answers: {pair['both']} tasks resolved by both, {pair['only_model']} by the model alone, "
        f"{pair['only_base']} by the base alone (sign test: p = {pair['p']:.3g})"
    )


def unfit_counts(unfit: Sequence[Mapping[str, str]]) -> list[str]:
    """How many tasks were left out, by reason."""
    counts: dict[str, int] = {}
    for one in unfit:
        counts[one["reason"]] = counts.get(one["reason"], 0) + 1
    return [f"{count}: {reason}" for reason, count in counts.items()]


def _row(kind: str, model: str, found: Mapping[str, Any], ks: Sequence[str]) -> list[str]:
    low, high = found["interval"]
    figures = [str(found[name]) for name in ("tasks", "answers", "resolved", "applied", "invalid", "flagged", "void")]
    return [kind, model, *figures, f"{found['rate']:.1%}", f"{low:.1%}-{high:.1%}",
            *(f"{found['pass_at'][k]:.1%}" for k in ks)]  # fmt: skip
