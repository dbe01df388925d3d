"""`loraplug merge`, `extract` and `convert`: adapters out of adapters and models; no training."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loraplug import InputError, Run, echo

if TYPE_CHECKING:
    from loraplug import App

METHODS = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune", "svd", "cat")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
_path = click.Path(path_type=Path)
_base = click.option("--base", metavar="MODEL", help="Base model, in place of the one that the adapter names.")
_trust = click.option(
    "--trust", is_flag=True, help="Use the recipe lock in an adapter folder even if another machine wrote it."
)
_seed = click.option("--seed", default=42, show_default=True, help="Seed of random numbers.")


def _rank(required: bool, text: str) -> Callable[[Any], Any]:
    return click.option("--rank", type=click.IntRange(min=1), required=required, help=text)


def _name(default: str) -> Callable[[Any], Any]:
    return click.option("--name", help=f"Name of the result; default: {default}.")


def _weights(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, ...]:
    try:
        found = tuple(float(one) for one in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter("give comma-separated numbers, such as 0.7,0.3") from None
    if any(not abs(one) < float("inf") for one in found):
        raise click.BadParameter("weights must be finite numbers")
    return found


@click.command()
@click.argument("adapters", nargs=-1, required=True, type=_path, metavar="ADAPTER...")
@click.option("--method", required=True, type=click.Choice(METHODS), help="The merging method; see docs/merging.md.")
@click.option(
    "--weights", callback=_weights, help="Weights of the adapters, comma-separated: 0.7,0.3. Default: 1 each."
)
@click.option("--density", type=float, help="Share of values that ties, dare and magnitude_prune keep.")
@_rank(False, "Rank of the result, for svd; default: the largest rank of the adapters.")
@_name("the adapters' names and the method")
@_base
@_seed
@_trust
@click.pass_obj
def merge(
    app: App,
    adapters: tuple[Path, ...],
    method: Any,
    weights: tuple[float, ...],
    density: float | None,
    rank: int | None,
    name: str | None,
    base: str | None,
    seed: int,
    trust: bool,
) -> None:
    """Merge several ADAPTER folders of one base into one adapter, with peft.

    Prints how far each layer of the result is from the weighted sum of the adapters.
    """
    from loraplug_export.derive import folder
    from loraplug_export.derive.merging import Mix, checked, merge_adapters
    from loraplug_export.derive.sources import one_base, open_source

    mix = checked(Mix(method, weights, density, rank, seed), len(adapters))
    run = _run(app, name, seed)
    sources = [open_source(adapter, app, run, base, trust) for adapter in adapters]
    run = _run(app, name or "-".join([*(source.name for source in sources), method]), seed)
    folder.free_place(run)
    shared = one_base(sources)
    merged = merge_adapters(sources, shared, mix)
    facts: dict[str, Any] = {"made_by": "loraplug merge", "method": method}
    facts |= {key: value for key, value in (("density", density), ("seed", seed)) if density is not None}
    facts |= {"distance_from_weighted_sum": merged.errors.total}
    told = [source.facts() | {"weight": weight} for source, weight in zip(sources, mix.weights, strict=True)]
    facts |= {"sources": told, "layers": merged.errors.facts()}
    tokenizers = [*(source.adapter.folder for source in sources), shared.folder]
    place = folder.write_adapter_folder(run, shared, merged.config, merged.tensors, facts, tokenizers)
    echo("\n".join(merged.errors.lines("distance")))
    echo(f"  in all       {merged.errors.total:.4f} from the weighted sum of the adapters")
    _done("merge", place)


@click.command()
@click.argument("base")
@click.argument("tuned")
@_rank(True, "Rank of the adapter; at most the shorter side of a layer's weight.")
@_name("the fine-tuned model's name and the rank")
@_seed
@click.pass_obj
def extract(app: App, base: str, tuned: str, rank: int, name: str | None, seed: int) -> None:
    """Extract a LoRA adapter from TUNED, a full fine-tune of BASE: its changes of the linear layers.

    The models are read tensor by tensor. Prints the error of each kind of layer at this rank, and what else changed.
    """
    from loraplug_export.derive import folder
    from loraplug_export.derive.extraction import extract as compare
    from loraplug_export.derive.extraction import facts, summary
    from loraplug_export.derive.plain import plain_lora
    from loraplug_export.derive.sources import open_base

    run = _run(app, name, seed)
    first, second = open_base(base, app, run), open_base(tuned, app, run)
    from loraplug_export.card import public_name

    called = public_name(second.id).rpartition("/")[2]
    run = _run(app, name or f"{called}-r{rank}", seed)
    folder.free_place(run)
    found = compare(first.folder, second.folder, rank, run)
    told: dict[str, Any] = {"made_by": "loraplug extract", "rank": rank, "sources": [{"name": called}]} | facts(found)
    config, tensors = plain_lora(found.pairs, found.modules)
    place = folder.write_adapter_folder(run, first, config, tensors, told, [second.folder, first.folder])
    echo("\n".join(summary(found)))
    _done("extract", place)


@click.command()
@click.argument("adapter", type=_path)
@click.option("--to", required=True, type=click.Choice(["lora"]), help="The kind of adapter to make.")
@_rank(True, "Rank of the result; at most the shorter side of a layer's weight.")
@_name("the adapter's name and the rank")
@_base
@_seed
@_trust
@click.pass_obj
def convert(
    app: App, adapter: Path, to: str, rank: int, name: str | None, base: str | None, seed: int, trust: bool
) -> None:
    """Convert an ADAPTER of another kind (DoRA, LoHa, LoKr, IA3, OFT, PiSSA, or LoRA of another rank) to plain LoRA.

    Prints the error of each kind of layer at this rank.
    """
    from loraplug_export.derive import folder
    from loraplug_export.derive.conversion import convert as converted
    from loraplug_export.derive.plain import plain_lora
    from loraplug_export.derive.sources import open_source

    source = open_source(adapter, app, _run(app, name, seed), base, trust)
    run = _run(app, name or f"{source.name}-{to}-r{rank}", seed)
    folder.free_place(run)
    found = converted(source, rank, run)
    config, tensors = plain_lora(found.pairs, found.modules)
    kind = "DoRA" if source.adapter.config.get("use_dora") else source.adapter.config["peft_type"]
    facts = {"made_by": "loraplug convert", "kind_before": kind, "rank": rank, "error": found.errors.total}
    facts |= {"sources": [source.facts()], "layers": found.errors.facts()}
    tokenizers = [source.adapter.folder, source.base.folder]
    place = folder.write_adapter_folder(run, source.base, config, tensors, facts, tokenizers)
    echo("\n".join(found.errors.lines()))
    echo(f"  in all       {found.errors.total:.4f} of the change is lost")
    _done("convert", place)


def _run(app: App, name: str | None, seed: int) -> Run:
    if name is not None and not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be a folder name", where="--name", todo="use letters, digits, dots, dashes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it warns about an optional package
    return Run(name or "adapter", seed=seed, reporter=app.reporter())


def _done(what: str, place: Path) -> None:
    shown = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    echo(f"{what}: {shown}")
