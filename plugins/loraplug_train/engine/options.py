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
    """Options that do not go together."""
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
    """Options of LoRA that do not go together, or not with the recipe."""
    if not lora.target_modules:
        what = "is empty, so nothing would be adapted"
        yield Problem(f"{lora.table}.target_modules", what + '; name layers, or leave it out for "all-linear"')
    yield from expert_problems(lora)
    if getattr(getattr(recipe, "model", None), "add_tokens", ()):
        yield from token_problems(lora)
    start = f"{lora.table}.init_lora_weights"
    if recipe.quantizer is not None and lora.init_lora_weights in ("pissa", "olora"):
        what = f'"{lora.init_lora_weights}" changes the base weights, which a quantizer does not let it'
        yield Problem(start, what + '; leave out [quantizer], or take "default"')
    if lora.init_lora_weights in UNAVAILABLE:
        what = f'"{lora.init_lora_weights}" is not to be had: {UNAVAILABLE[lora.init_lora_weights]}'
        yield Problem(start, what + '; take "eva", "pissa" or "default"')
    if lora.start_from is not None and lora.init_lora_weights != "default":
        yield Problem(start, "start_from goes on with values that are there; leave out one of the two")


def expert_problems(lora: Lora) -> Iterable[Problem]:
    """What does not go with adapters on experts, which peft makes as a difference of their whole tensor."""
    wanted = lora.target_modules
    if "experts" not in ((wanted,) if isinstance(wanted, str) else wanted):
        return
    what = 'does not go with "experts" in target_modules: a fused tensor knows no dropout, DoRA or other starts'
    if lora.dropout:
        yield Problem(f"{lora.table}.dropout", f"{what}; set it to 0")
    if lora.use_dora:
        yield Problem(f"{lora.table}.use_dora", f"{what}; set it to false")
    if lora.init_lora_weights not in ("default", "gaussian"):
        yield Problem(f"{lora.table}.init_lora_weights", f'{what}; take "default"')


def token_problems(lora: Lora) -> Iterable[Problem]:
    """What does not go with tokens that the model loader adds, whose rows of embedding and output are trained."""
    what = "model.add_tokens trains the new rows of embedding and output layer"
    wanted = lora.target_modules
    ends = {"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"}
    if named := sorted(ends & {*lora.modules_to_save}):
        yield Problem(f"{lora.table}.modules_to_save", f"{what}; {' and '.join(named)} cannot be trained whole, too")
    if named := sorted(ends & ({wanted} if isinstance(wanted, str) else {*wanted})):
        yield Problem(f"{lora.table}.target_modules", f"{what}; {' and '.join(named)} cannot have an adapter, too")
    try:
        if (kind := shards.asked()) in shards.CUT:
            how = "use_fsdp: false" if kind == "fsdp2" else "zero_stage: 2"
            yield Problem(shards.WHERE, f"{what}, which a sharded model has only parts of; set {how}")
    except InputError:
        return  # told for itself
