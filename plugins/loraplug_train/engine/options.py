"""Checks of the trainer's options against each other and the rest of the recipe."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from loraplug import InputError, Problem
from loraplug_train.engine import liger, shards
from loraplug_train.engine.interval import seconds_or_steps

if TYPE_CHECKING:
    from loraplug_train.adapters.lora import Lora
    from loraplug_train.trainer import EngineTrainer

UNAVAILABLE = {
    "loftq": "peft computes it on a GPU alone, in training and again wherever the adapter is loaded",
    "corda": "peft loads an adapter that began so only where the rows it was computed from are at hand",
}
"""Ways that peft has to begin an adapter and that cannot be used here, and why."""


def problems(options: EngineTrainer, recipe: Any) -> Iterable[Problem]:
    """Options that cannot be combined."""
    micro = options.micro_batch
    if isinstance(micro, int) and micro < 1:
        yield Problem("trainer.micro_batch", f"{micro} is below 1")
    if options.tokens_per_step is None and isinstance(micro, int) and micro > options.batch_size:
        yield Problem("trainer.micro_batch", f"{micro} is more than batch_size {options.batch_size}")
    for name in ("early_stopping", "load_best_model_at_end"):
        if getattr(options, name) and options.validate_every is None:
            yield Problem(f"trainer.{name}", "needs trainer.validate_every")
    if options.validate_every is not None and not recipe.validates:
        yield Problem("trainer.validate_every", "needs a [validation] table: there are no rows to validate on")
    try:
        seconds_or_steps(options.save_every)
    except ValueError as error:
        yield Problem("trainer.save_every", str(error))
    if options.kernel == "liger" and (told := liger.lacking()):
        yield Problem(liger.WHERE, told)
    if options.lora_options is not None:
        yield from lora_problems(options.lora_options, recipe)
    try:
        wrong = shards.quantised()
        if wrong and recipe.quantizer is not None:
            yield Problem(shards.WHERE, wrong)
    except InputError as error:
        yield Problem(shards.WHERE, error.what)
    if options.report_to != "auto":
        for name in options.report_to:
            if find_spec(name) is None:
                yield Problem("trainer.report_to", f"{name} is not installed: pip install {name}")


def lora_problems(lora: Lora, recipe: Any) -> Iterable[Problem]:
    """Options of LoRA that cannot be combined, with each other or with the recipe."""
    if not lora.target_modules:
        what = "is empty, so no layer would get an adapter"
        yield Problem(f"{lora.table}.target_modules", what + '; name layers, or leave it out for "all-linear"')
    yield from expert_problems(lora)
    if getattr(getattr(recipe, "model", None), "add_tokens", ()):
        yield from token_problems(lora)
    start = f"{lora.table}.init_lora_weights"
    if recipe.quantizer is not None and lora.init_lora_weights in ("pissa", "olora"):
        what = f'"{lora.init_lora_weights}" changes the base weights, and quantized weights cannot be changed'
        yield Problem(start, what + '; remove [quantizer], or set "default"')
    if lora.init_lora_weights in UNAVAILABLE:
        what = f'"{lora.init_lora_weights}" is not available: {UNAVAILABLE[lora.init_lora_weights]}'
        yield Problem(start, what + '; set "eva", "pissa" or "default"')
    if lora.start_from is not None and lora.init_lora_weights != "default":
        yield Problem(start, "start_from uses weights that exist already; remove one of the two")


def expert_problems(lora: Lora) -> Iterable[Problem]:
    """Options that cannot be combined with adapters on fused experts, which peft adapts as one tensor."""
    wanted = lora.target_modules
    if "experts" not in ((wanted,) if isinstance(wanted, str) else wanted):
        return
    what = (
        'cannot be combined with "experts" in target_modules: a fused tensor supports neither dropout nor DoRA nor '
        "another initialisation"
    )
    if lora.dropout:
        yield Problem(f"{lora.table}.dropout", f"{what}; set it to 0")
    if lora.use_dora:
        yield Problem(f"{lora.table}.use_dora", f"{what}; set it to false")
    if lora.init_lora_weights not in ("default", "gaussian"):
        yield Problem(f"{lora.table}.init_lora_weights", f'{what}; set "default"')


def token_problems(lora: Lora) -> Iterable[Problem]:
    """Options that cannot be combined with added tokens, whose embedding and output rows are trained."""
    what = "model.add_tokens trains the new rows of the embedding and the output layer"
    wanted = lora.target_modules
    ends = {"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"}
    if named := sorted(ends & {*lora.modules_to_save}):
        named_twice = f"{' and '.join(named)} cannot be in modules_to_save as well"
        yield Problem(f"{lora.table}.modules_to_save", f"{what}; {named_twice}")
    if named := sorted(ends & ({wanted} if isinstance(wanted, str) else {*wanted})):
        yield Problem(f"{lora.table}.target_modules", f"{what}; {' and '.join(named)} cannot have an adapter as well")
    try:
        if (kind := shards.requested()) in shards.SHARDED:
            how = "use_fsdp: false" if kind == "fsdp2" else "zero_stage: 2"
            yield Problem(shards.WHERE, f"{what}, which cannot be trained if the model is sharded; set {how}")
    except InputError:
        return  # reported elsewhere
