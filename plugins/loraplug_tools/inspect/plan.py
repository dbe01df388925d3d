"""`loraplug plan`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from loraplug import echo, row_lengths

if TYPE_CHECKING:
    from loraplug import App, Encoded, Event, Pipeline

BARS, WIDTH = 12, 48
LOSSES = {
    "cut_characters": "characters of tool outputs",
    "removed_turns": "turns",
    "untrained_answers": "answers from training",
    "cut_answers": "ends of answers",
    "cut_tokens": "tokens of texts",
}


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key: formatter.max_length=512.")
@click.option("--no-measure", is_flag=True, help="Skip memory and time: load no model, run no steps.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def plan(app: App, recipe: Path, settings: tuple[str, ...], no_measure: bool, as_json: bool) -> None:
    """Estimate rows, tokens, duplicates, memory and time of RECIPE, without training."""
    from loraplug_tools.inspect.models import family_row
    from loraplug_tools.inspect.near import near

    pipeline = app.pipeline(recipe, settings)
    pipeline.preflight("trainer", deep=not no_measure)
    took = watch(pipeline)
    if pipeline.recipe.sets:
        from loraplug_tools.inspect.mixture import mixture, show

        made, encoded = mixture(pipeline)
        made["transforms"] = took
        if not no_measure:
            made["estimate"] = _estimate(pipeline, row_lengths(encoded))
        if as_json:
            return echo(json.dumps(made))
        show(made, _show_part)
        show_transforms(took)
        return _show_estimate(made)
    rows = pipeline.load_rows()
    train, held = pipeline.split_rows(rows)
    tokenizer = pipeline.load_tokenizer()
    encoded = pipeline.encode(train, tokenizer)
    figures: dict[str, Any] = {"rows": len(rows), "train": tokens_of(encoded)}
    figures["train"]["rows"] = len(train)
    if held is not None:
        figures["validation"] = {**tokens_of(pipeline.encode(held, tokenizer)), "rows": len(held)}
    alike = near(train, held, pipeline.run)
    figures["near_duplicates"] = {"within_train": len(alike.within), "across_split": len(alike.across)}
    figures["model"] = family_row(pipeline.recipe.model.facts(pipeline.run))
    figures |= {"transforms": took} if took else {}
    if not no_measure:
        figures["estimate"] = _estimate(pipeline, row_lengths(encoded))
    if as_json:
        return echo(json.dumps(figures))
    show_transforms(took)
    return _show(figures)


def watch(pipeline: Pipeline) -> list[dict[str, Any]]:
    """A list that fills with what each transform takes, as the pipeline goes through them."""
    took: list[dict[str, Any]] = []
    waiting: dict[str, int] = {}
    before = pipeline.run.observe

    def see(event: Event) -> None:
        nonlocal waiting
        if event.kind == "left-out":
            waiting[event.data["reason"]] = event.data["rows"]
        elif event.kind == "transformed":
            took.append({**event.data, "reasons": waiting})
            waiting = {}
        before(event)

    pipeline.run = attrs.evolve(pipeline.run, observe=see)
    return took


def show_transforms(took: Sequence[dict[str, Any]]) -> None:
    """What each transform took, and why."""
    for index, one in enumerate(took):
        told = ", ".join(f"{count}: {reason}" for reason, count in one["reasons"].items())
        where = "" if one["place"] == "dataset" else f"{one['place']} "
        head = "transforms" if not index else ""
        why = f" ({told})" if told else ""
        echo(f"{head:<16} {where}{one['component']}: {one['left']} of {one['rows']} rows left{why}")


def tokens_of(encoded: Encoded) -> dict[str, Any]:
    """Figures of encoded rows, and the formatter's own account of rows left out."""
    from loraplug_tools.inspect.tokens import documents

    lengths, trained = [], 0
    for _, ids, weights in documents(encoded):
        lengths.append(len(ids))
        trained += sum(weight > 0 for weight in weights)
    judged = encoded.schema != "tokens"  # of such a row the model may read several sequences, of a pair two
    count = len(encoded.dataset) if judged else len(lengths)
    figures: dict[str, Any] = {"documents": count, "tokens": sum(lengths), "trained_tokens": trained}
    figures |= {"sequences": len(lengths)} if judged else {}
    figures["histogram"] = _histogram(lengths)
    if "seq_lengths" in encoded.dataset.column_names:
        count, fullest = len(encoded.dataset), max(sum(sizes) for sizes in encoded.dataset["seq_lengths"])
        figures["packs"] = {"count": count, "fill": sum(lengths) / (count * fullest)}
    report = encoded.report
    for key in (
        "kept", "truncated", "lost", "examples", "weighted", "columns", "keys",
        "other_prompts", "missing_eos", "escaped_special",
    ):  # fmt: skip
        if report.get(key):
            figures[key] = report[key]
    for key in (*LOSSES, "cut_outputs", "split", "pieces"):
        if report.get(key):
            figures[key] = report[key]
    return figures


def _histogram(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(from, below, rows) in equal steps."""
    low, high = min(lengths), max(lengths) + 1
    step = max(1, -(-(high - low) // BARS))
    bounds = range(low, high, step)
    return [(a, a + step, sum(a <= length < a + step for length in lengths)) for a in bounds]


def _estimate(pipeline: Any, lengths: Sequence[int]) -> dict[str, Any] | None:
    recipe, run = pipeline.recipe, pipeline.run
    model = pipeline.load_model(recipe.trainer.placement(run=run))
    made = recipe.trainer.estimate(run=run, model=model, lengths=lengths)
    if made is None:
        return None
    return {
        "memory_bytes": made.memory_bytes,
        "parts": dict(made.parts),
        "loading_bytes": made.loading_bytes,
        "seconds": made.seconds,
        "notes": dict(made.notes),
    }


def _show(figures: dict[str, Any]) -> None:
    """The figures of one data set."""
    from loraplug_tools.inspect.models import sentence

    for part in ("train", "validation"):
        if part in figures:
            _show_part(part, figures[part])
    if figures["model"] is not None:
        echo(f"model            {sentence(figures['model'])}")
    alike = figures["near_duplicates"]
    echo(f"near-duplicates  {alike['within_train']} rows within training", nl=False)
    echo(f", {alike['across_split']} across to validation" if "validation" in figures else "")
    _show_estimate(figures)


def _show_estimate(figures: dict[str, Any]) -> None:
    if "estimate" in figures:
        estimate = figures["estimate"]
        if estimate is None:
            echo("memory, time     this trainer gives no estimate")
            return
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in estimate["parts"].items())
        echo(f"memory           {estimate['memory_bytes'] / 1e9:.2f} GB" + (f" ({parts})" if parts else ""))
        if estimate["loading_bytes"] is not None:
            echo(f"loading          {estimate['loading_bytes'] / 1e9:.2f} GB, before training")
        if estimate["seconds"] is not None:
            echo(f"time             {_time(estimate['seconds'])}")
        for about, note in estimate["notes"].items():
            echo(f"{about:<17}{note}")


def _show_part(name: str, part: dict[str, Any]) -> None:
    share = part["trained_tokens"] / max(part["tokens"], 1)
    echo(f"{name}", bold=True)
    rows = part["documents"] - part.get("pieces", 0) + part.get("split", 0)
    echo(f"  rows           {rows} of {part['rows']}, {part.get('truncated', 0)} truncated")
    if lost := ", ".join(f"{part[key]:,} {what}" for key, what in LOSSES.items() if part.get(key)):
        echo(f"  truncated lose {lost}")
    if part.get("split"):
        echo(f"  split          {part['split']} texts into {part['pieces']} rows")
    for reason, count in part.get("lost", {}).items():
        echo(f"  left out       {count}: {reason} ({', '.join(part['examples'][reason])} …)")
    sequences = f" in {part['sequences']} sequences" if "sequences" in part else ""
    echo(f"  tokens         {part['tokens']:,}{sequences}, {part['trained_tokens']:,} trained ({share:.0%})")
    if "packs" in part:
        echo(f"  packs          {part['packs']['count']}, {part['packs']['fill']:.0%} full")
    for name, what in (("columns", "unread columns"), ("keys", "unread keys")):
        if listed := part.get(name):
            echo(f"  {what:<15}" + ", ".join(f"{key} ({count} rows)" for key, count in listed.items()))
    if part.get("weighted"):
        echo(f"  weighted       {part['weighted']} rows with weights other than 0 and 1")
    if part.get("other_prompts"):
        echo(f"  other prompts  {part['other_prompts']} rows: the template changes earlier turns")
    if part.get("missing_eos"):
        echo(f"  no end         {part['missing_eos']} rows: the template writes no end-of-turn token")
    if part.get("escaped_special"):
        echo(f"  escaped        {part['escaped_special']} rows with text that looks like control tokens")
    most = max(count for _, _, count in part["histogram"])
    for low, high, count in part["histogram"]:
        bar = "█" * round(WIDTH * count / most) or ("▏" if count else "")
        echo(f"  {low:>7}-{high - 1:<7} {bar} {count}")


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
