"""`plan` of a recipe with several data sets: what each holds and gives, and where they overlap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from loraplug import echo

if TYPE_CHECKING:
    from datasets import Dataset

    from loraplug import Encoded, Pipeline, Run


def mixture(pipeline: Pipeline) -> tuple[dict[str, Any], Encoded]:
    """Figures of every set, of the mixture and of overlaps, and the encoded rows that would be trained on."""
    from loraplug_tools.inspect.plan import tokens_of

    rows = pipeline.load_sets()
    train, held = pipeline.split_sets(rows)
    tokenizer = pipeline.load_tokenizer()
    encoded = pipeline.encode_sets(train, tokenizer)
    mixed, taken = pipeline.mix(encoded)
    sets: dict[str, Any] = {}
    for name, part in encoded.items():
        sets[name] = {"rows": len(rows[name]), "train": {**tokens_of(part), "rows": len(train[name])}}
        one = taken[name]
        sets[name]["mix"] = {"rows": one.rows, "of": one.of, "amount": one.amount, "passes": one.passes}
    for name, part in pipeline.encode_sets(held, tokenizer).items():
        sets.setdefault(name, {"rows": len(rows[name])})["validation"] = {**tokens_of(part), "rows": len(held[name])}
    mix = pipeline.recipe.mix
    whole = tokens_of(mixed)
    figures = {
        "how": mix.how,
        "exhausted": mix.exhausted,
        "unit": mix.unit,
        **{key: whole[key] for key in ("documents", "tokens", "trained_tokens")},
    }
    return {"sets": sets, "mix": figures, "near_duplicates": overlaps(train, held, pipeline.run)}, mixed


def overlaps(train: Mapping[str, Dataset], held: Mapping[str, Dataset], run: Run) -> list[dict[str, Any]]:
    """How many rows are nearly alike: within each set, between each two, and of each across to validation rows."""
    from loraplug_tools.inspect.near import near

    found = []
    names = list(train)
    for at, name in enumerate(names):
        alike = near(train[name], None, run)
        found.append({"of": name, "in": name, "rows": len(alike.within)})
        others = [(other, train[other]) for other in names[at + 1 :]]
        others += [(f"validation rows of {other}", rows) for other, rows in held.items()]
        for other, rows in others:
            across = near(train[name], rows, run).across
            found.append({"of": other, "in": name, "rows": len(across)})
    return found


def show(made: Mapping[str, Any], show_part: Callable[[str, dict[str, Any]], None]) -> None:
    """Print it: a part for each set, the mixture, and overlaps that there are."""
    mix = made["mix"]
    for name, one in made["sets"].items():
        for part in ("train", "validation"):
            if part in one:
                show_part(f"{name}, {part}", one[part])
        if "mix" in one:
            times = f", {one['mix']['passes']:.2f} times over" if one["mix"]["passes"] > 1 else ""
            unit = "tokens" if mix["unit"] == "tokens" else "rows"
            echo(f"  in the mixture {one['mix']['rows']} of {one['mix']['of']} encoded rows{times}, "
                 f"{one['mix']['amount']:,} {unit}")  # fmt: skip
    said = ", ".join(str(mix[key]) for key in ("how", "exhausted", "unit") if mix[key])
    echo(f"mixture ({said})", bold=True)
    echo(f"  rows           {mix['documents']}")
    echo(f"  tokens         {mix['tokens']:,}, {mix['trained_tokens']:,} trained")
    for one in made["near_duplicates"]:
        if one["rows"]:
            there = "the same data set" if one["of"] == one["in"] else f"of {one['of']} resemble rows of"
            echo(f"near-duplicates  {one['rows']} {there}" + f" {one['in']}")
    if not any(one["rows"] for one in made["near_duplicates"]):
        echo("near-duplicates  none within a data set, between data sets, or in validation")
