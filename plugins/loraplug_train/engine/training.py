"""One training from start to end: model with adapters, steps, checkpoints, what is measured around them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from loraplug import (
    FUSED_EXPERTS,
    Encoded,
    InputError,
    Run,
    Sample,
    Share,
    TrainingResult,
    adapted_share,
    fresh_place,
    quantised_share,
)
from loraplug_train.cpu import kernel
from loraplug_train.engine import liger, measure, shards, weights, world, zero
from loraplug_train.engine import schedule as order
from loraplug_train.engine.checkpoints import Checkpoints
from loraplug_train.engine.forecast import needs_checkpointing
from loraplug_train.engine.health import Health, fingerprint, moved
from loraplug_train.engine.interval import seconds_or_steps
from loraplug_train.engine.loop import Layout, LoraTrainer, trained_tokens
from loraplug_train.engine.monitor import Habits, Watcher
from loraplug_train.engine.options import trackers
from loraplug_train.engine.separation import separation

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig

    from loraplug_train.trainer import Sft


def train(
    options: Sft,
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: Encoded | None,
    validation: Encoded | None,
) -> TrainingResult:
    """See `Trainer.train`. On further processes of one training the rows are None and come from the first."""
    from transformers import set_seed
    from transformers.utils import logging

    loading = measure.peak_memory()
    measure.forget_peak()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    train_rows, validation = world.same_rows(run.distributed, train_rows, validation)
    rows = weights.checked(train_rows.dataset, "the training rows")
    held = None if validation is None else weights.checked(validation.dataset, "the validation rows")
    lengths = [len(ids) for ids in rows["input_ids"]]
    tokens = _check_rows(options, run, model, tokenizer, rows, lengths)
    _check_router_loss(options, model)
    set_seed(run.seed)
    plan = order.lay_out(
        lengths,
        run.seed,
        options.epochs,
        options.max_steps,
        options.batch_size,
        options.tokens_per_step,
        sets=rows["set"] if "set" in rows.column_names else None,
    )
    adapted, targets = options.lora.attach(model)
    coverage = adapted_share(adapted, targets.left_out)
    _say_coverage(run, coverage)
    fast, said = False, "plain kernel, as asked"
    if options.kernel == "liger":
        said = liger.install(adapted)
    if sharded := (kind := shards.asked()) in shards.CUT:
        said = shards.spread(adapted)
    elif options.kernel == "auto":
        fast, said = kernel.install(adapted)
    world.same_start(run.distributed, (parameter for parameter in adapted.parameters() if parameter.requires_grad))
    run.say(said + _machine(model))
    if kind.startswith("zero") and not sharded:
        run.say(zero.whole(adapted, int(kind[-1])))
    layout = _layout(options, run, adapted, lengths, fast)
    packed = any(len(row or ()) > 1 for row in rows["seq_lengths"]) if "seq_lengths" in rows.column_names else False
    if packed or layout.most_rows > 1:
        _keep_apart(run, adapted, layout, fast, max(lengths))
    trainer = LoraTrainer(
        run,
        plan,
        layout,
        fast=fast,
        sharded=sharded,
        model=adapted,
        args=_arguments(options, run, model, len(plan.steps), layout),
        processing_class=tokenizer,
        train_dataset=rows,
        plus_ratio=options.lora.plus_ratio,
    )
    if not fast and (why := trainer.choose_head()):
        run.say(f"losses are made from the model's own logits: {why}")
    watcher = Watcher(
        run,
        trainer,
        held,
        Habits(options.validate_every, options.early_stopping, options.keep_best, seconds_or_steps(options.save_every)),
        Checkpoints(run, options.keep),
        Health(run, model.config.get_text_config().vocab_size),
        _running(plan, lengths),
        _running(plan, tokens),
    )
    return _run(options, watcher, tokenizer, coverage, loading)


def _run(
    options: Sft, watcher: Watcher, tokenizer: PreTrainedTokenizerBase, coverage: Share, loading: float
) -> TrainingResult:
    run, trainer, held = watcher.run, watcher.trainer, watcher.held
    probes = measure.prompts(held or trainer.train_dataset, options.samples)
    texts = [tokenizer.decode(ids) for ids in probes]
    start = fingerprint(trainer.trained.values())
    before = _measured_before(watcher, tokenizer, probes)
    _tell_samples(run, 0, texts, before["answers"])
    kept = run.distributed.broadcast(watcher.checkpoints.latest() if watcher.leads else None)
    if kept is not None:
        watcher.resume(kept)
        run.say(f"going on from the checkpoint of step {kept.step} of {len(trainer.plan.steps)}")
    trainer.add_callback(watcher)
    try:
        if kept is not None and kept.step == len(trainer.plan.steps):  # killed after the last step
            trainer.restore_adapters(kept)
        else:
            trainer.train()
    except Exception as error:
        if (tracker := type(error).__module__.split(".")[0]) not in options.report_to and tracker != "wandb":
            raise
        raise InputError(
            f"{tracker} refused: {' '.join(str(error).split())[:300]}",
            where="trainer.report_to" + (", WANDB_API_KEY" if tracker == "wandb" else ""),
            todo="mend its settings, or leave it out with trainer.report_to = []",
        ) from error
    finally:
        watcher.close()
    watcher.take_best()
    figures = watcher.figures()
    after: list[str] = []
    if held is not None:
        losses = measure.validation_losses(trainer, held, run)
        known = before.get("losses") or {"validation_loss": before["validation_loss"]}
        figures = {
            **{_at(label, "before"): loss for label, loss in known.items()},
            **figures,
            **{_at(label, "after"): loss for label, loss in losses.items()},
        }
    if watcher.leads or trainer.sharded:
        after = measure.answers(trainer, tokenizer, probes)
    changed = fingerprint(trainer.trained.values()) != start
    moved(run, changed, figures.get("validation_loss_before"), figures.get("validation_loss_after"))
    figures |= {"peak_memory_bytes": measure.peak_memory(), "loading_memory_bytes": loading}
    figures["adapted_share"] = round(coverage.share, 4)
    if watcher.leads:
        watcher.write(figures)
        _save(run, trainer, tokenizer, coverage)
    _tell_samples(run, int(figures["steps"]), texts, after)
    return TrainingResult(run.folder / "adapter", figures, [*map(Sample, texts, before["answers"], after)])


def _tell_samples(run: Run, step: int, prompts: list[str], answers: list[str]) -> None:
    for prompt, answer in zip(prompts, answers, strict=False):  # processes that do not lead have no answers
        run.emit("sample", step=step, prompt=prompt, answer=answer)


def _at(label: str, when: str) -> str:
    """`validation_loss/chat` before training is called `validation_loss_before/chat`."""
    return label.replace("validation_loss", f"validation_loss_{when}", 1)


def _measured_before(watcher: Watcher, tokenizer: PreTrainedTokenizerBase, probes: list[list[int]]) -> dict[str, Any]:
    """Validation loss and answers of the untrained model; a run that goes on finds them where the first left them."""
    place = watcher.checkpoints.folder / "before.json"
    if known := watcher.run.distributed.broadcast(
        json.loads(place.read_text(encoding="utf-8")) if place.exists() else None
    ):
        return dict(known)
    trainer, held = watcher.trainer, watcher.held
    found: dict[str, Any] = {"answers": [], "validation_loss": None}
    if held is not None:
        found["losses"] = measure.validation_losses(trainer, held, watcher.run)
        found["validation_loss"] = found["losses"]["validation_loss"]
    if watcher.leads or trainer.sharded:
        found["answers"] = measure.answers(trainer, tokenizer, probes)
    if watcher.leads:
        with fresh_place(place) as out:
            out.write_text(json.dumps(found), encoding="utf-8")
    return found


def _check_rows(
    options: Sft,
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    lengths: list[int],
) -> list[int]:
    """The trained tokens of each row.

    Raises:
        InputError: nothing is trained; more rows in a batch than there are; a row is longer than the model takes, or
            holds a token that the model does not have.
    """
    tokens = [trained_tokens(row) for row in rows]
    if not any(tokens):
        raise InputError("no token is trained", where="trainer", todo="see `loraplug preview` for the masks")
    idle = [row["row"][0] for row, count in zip(rows, tokens, strict=True) if not count]
    if idle:
        run.warn(f"{len(idle)} rows have no trained token and teach nothing: {', '.join(idle[:5])}")
    if options.tokens_per_step is None and options.batch_size > len(rows):
        raise InputError(
            f"{options.batch_size} is more than the {len(rows)} training rows",
            where="trainer.batch_size",
            todo=f"set it to at most {len(rows)}",
        )
    _check_ids(run, model, tokenizer, rows)
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and 0 < most < max(lengths) and "seq_lengths" not in rows.column_names:
        raise InputError(
            f"a row of {max(lengths)} tokens is longer than the {most} the model takes",
            where=f"formatter.max_length, row {rows[lengths.index(max(lengths))]['row'][0]}",
            todo=f"set formatter.max_length to at most {most}",
        )
    return tokens


def _check_router_loss(options: Sft, model: PreTrainedModel) -> None:
    """Raise InputError where a router loss is asked of a model that has no routers; else ask it for none by itself."""
    text = model.config.get_text_config()
    if options.router_loss and not hasattr(text, "output_router_logits"):
        what = f"{type(model).__name__} gives no router logits to balance"
        raise InputError(what, where="trainer.router_loss", todo="leave it out")
    if hasattr(text, "output_router_logits"):
        text.output_router_logits = False


def _check_ids(run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> None:
    """Warn if the tokenizer knows a token that the model has no vector for; raise InputError if a row is of its kind.

    Text of rows is no control token, so the name of an added one in a row is trained letter by letter. Who added it
    meant a token: where the model was not resized for it, that is refused.
    """
    size = getattr(model.get_input_embeddings(), "num_embeddings", None) or model.config.get_text_config().vocab_size
    lacking = sorted(text for text, number in tokenizer.get_vocab().items() if number >= size)
    if lacking:
        run.warn(
            f"the tokenizer knows {len(lacking)} tokens that the model has no vector for, such as {lacking[0]}: "
            "a prompt that holds one cannot be answered"
        )
    added = [token.content for number, token in tokenizer.added_tokens_decoder.items() if number >= size]
    for at, ids in enumerate(rows["input_ids"]):
        if (largest := max(ids)) >= size:
            raise InputError(
                f"token {largest} of the tokenizer is none of the {size} that the model has vectors for",
                where=rows[at]["row"][0],
                todo="take a tokenizer that belongs to the model, or a model that was resized for its tokens",
            )
        text = tokenizer.decode(ids) if added else ""
        if named := next((name for name in added if name in text), None):
            raise InputError(
                f"{named} is a token of the tokenizer that the model has no vector for, so it would be trained as text",
                where=rows[at]["row"][0],
                todo="save the model after resize_token_embeddings(len(tokenizer)), or take it out of the tokenizer",
            )


def _running(plan: order.Order, counts: list[int]) -> list[int]:
    """The sum of `counts` over the rows of all steps up to each."""
    total, sums = 0, []
    for step in plan.steps:
        total += sum(counts[row] for row in step)
        sums.append(total)
    return sums


def _layout(options: Sft, run: Run, adapted: Any, lengths: list[int], fast: bool) -> Layout:
    on_gpu = adapted.device.type != "cpu"
    wanted = options.gradient_checkpointing
    longest = max(max(lengths), kernel.MICRO_TOKENS if fast else 0)
    checkpointing = needs_checkpointing(adapted, longest, fast) if wanted == "auto" else wanted
    if wanted == "auto" and checkpointing:
        run.say("memory is short for the longest row: activations are recomputed (gradient_checkpointing)")
    if options.micro_batch != "auto":
        return Layout(options.micro_batch, None, checkpointing)
    if fast:
        return Layout(max(len(lengths), 1), kernel.MICRO_TOKENS, checkpointing)
    # on a CPU more rows at once are no faster; on a GPU short rows fill the place that the longest one needs anyway
    return Layout(max(len(lengths), 1), max(lengths), checkpointing) if on_gpu else Layout(1, None, checkpointing)


def _say_coverage(run: Run, coverage: Share) -> None:
    run.say(f"adapters on {coverage.sentence()}")
    fused, _ = coverage.rest.get(FUSED_EXPERTS, (0, ()))
    if fused:
        run.warn(
            f"{fused / coverage.total:.0%} of the weights of the layers are experts that get no adapter, as they are "
            'fused in one tensor; target_modules = ["all-linear", "experts"] adapts them, for more memory and time'
        )


def _keep_apart(run: Run, adapted: Any, layout: Layout, fast: bool, longest: int) -> None:
    """Have documents computed together only in a way in which they do not see each other, in place; says where not."""
    found = run.distributed.broadcast(separation(adapted, fast))
    layout.way, layout.limit = found.way, found.limit
    if found.way == "one-by-one":
        layout.most_rows = 1
    most = layout.most_rows * longest if layout.most_tokens is None else max(longest, layout.most_tokens)
    if found.limit is not None and most > found.limit:
        layout.most_tokens = min(found.limit, layout.most_tokens or found.limit)
    elif found.way == "end-to-end":
        return
    run.say(found.sentence())


def _arguments(options: Sft, run: Run, model: PreTrainedModel, steps: int, layout: Layout) -> SFTConfig:
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(run.folder / "checkpoints"),
        run_name=run.name,
        seed=run.seed,
        max_steps=steps,
        per_device_train_batch_size=1,
        optim=options.optimizer,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.scheduler,
        warmup_steps=int(options.warmup * steps),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        neftune_noise_alpha=options.neftune_alpha,
        router_aux_loss_coef=options.router_loss,
        activation_checkpointing=layout.checkpointing,
        bf16=False,  # `mixed_precision` does it, for answers and validation too
        use_cpu=model.device.type == "cpu",
        average_tokens_across_devices=False,
        # rows come encoded, masked and cut to length: trl is to take them as they are
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        padding_free=False,
        save_strategy="no",
        logging_steps=1,
        report_to=trackers(options) or "none",
        disable_tqdm=True,
        log_level="error",
    )


def _machine(model: PreTrainedModel) -> str:
    """What of the machine a training on the CPU uses; `loraplug` sets the policy where the user has not."""
    if model.device.type != "cpu":
        return ""
    import torch

    return f"; {torch.get_num_threads()} threads, OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', 'not set')}"


def _save(run: Run, trainer: Any, tokenizer: PreTrainedTokenizerBase, coverage: Share) -> None:
    with fresh_place(run.folder / "adapter") as out:
        trainer.model.save_pretrained(out, save_embedding_layers=False)  # those of the base, beside their adapters
        tokenizer.save_pretrained(out)
        quantization = getattr(trainer.model.config, "quantization_config", None)
        facts: dict[str, Any] = {"quantization": quantization.to_dict() if quantization is not None else None}
        facts["adapted"] = coverage.facts() | {"text": coverage.sentence()}
        if quantization is not None:
            quantised = quantised_share(trainer.model)
            facts["quantised"] = quantised.facts() | {"text": quantised.sentence()}
        facts["dtype"] = str(trainer.model.dtype).removeprefix("torch.")
        (out / "loraplug.json").write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")
