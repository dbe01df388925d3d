"""Checks of the trainer's options against each other and the rest of the recipe."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from loraplug import InputError, Problem
from loraplug_train.engine import liger, shards
from loraplug_train.engine.interval import seconds_or_steps

if TYPE_CHECKING:
    from loraplug_train.trainer import EngineTrainer


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
    if not options.lora.target_modules:
        what = "is empty, so no layer would get an adapter"
        yield Problem("trainer.lora.target_modules", what + '; name layers, or leave it out for "all-linear"')
    if options.kernel == "liger" and (told := liger.lacking()):
        yield Problem(liger.WHERE, told)
    yield from expert_problems(options)
    if getattr(getattr(recipe, "model", None), "add_tokens", ()):
        yield from token_problems(options)
    if recipe.quantizer is not None and options.lora.init_lora_weights in ("pissa", "olora"):
        what = f'"{options.lora.init_lora_weights}" changes the base weights, and quantized weights cannot be changed'
        yield Problem("trainer.lora.init_lora_weights", what + '; remove [quantizer], or set "default"')
    if options.lora.start_from is not None and options.lora.init_lora_weights != "default":
        yield Problem(
            "trainer.lora.init_lora_weights", "start_from uses weights that exist already; remove one of the two"
        )
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


def expert_problems(options: EngineTrainer) -> Iterable[Problem]:
    """Options that cannot be combined with adapters on fused experts, which peft adapts as one tensor."""
    wanted = options.lora.target_modules
    if "experts" not in ((wanted,) if isinstance(wanted, str) else wanted):
        return
    what = (
        'cannot be combined with "experts" in target_modules: a fused tensor supports neither dropout nor DoRA nor '
        "another initialisation"
    )
    if options.lora.dropout:
        yield Problem("trainer.lora.dropout", f"{what}; set it to 0")
    if options.lora.use_dora:
        yield Problem("trainer.lora.use_dora", f"{what}; set it to false")
    if options.lora.init_lora_weights not in ("default", "gaussian"):
        yield Problem("trainer.lora.init_lora_weights", f'{what}; set "default"')


def token_problems(options: EngineTrainer) -> Iterable[Problem]:
    """Options that cannot be combined with added tokens, whose embedding and output rows are trained."""
    what = "model.add_tokens trains the new rows of the embedding and the output layer"
    wanted = options.lora.target_modules
    ends = {"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"}
    if named := sorted(ends & {*options.lora.modules_to_save}):
        yield Problem(
            "trainer.lora.modules_to_save", f"{what}; {' and '.join(named)} cannot be in modules_to_save as well"
        )
    if named := sorted(ends & ({wanted} if isinstance(wanted, str) else {*wanted})):
        yield Problem("trainer.lora.target_modules", f"{what}; {' and '.join(named)} cannot have an adapter as well")
    try:
        if (kind := shards.asked()) in shards.CUT:
            how = "use_fsdp: false" if kind == "fsdp2" else "zero_stage: 2"
            yield Problem(shards.WHERE, f"{what}, which cannot be trained if the model is sharded; set {how}")
    except InputError:
        return  # reported elsewhere
