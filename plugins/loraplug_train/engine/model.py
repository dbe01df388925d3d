"""Prepares a loaded model for training: adapters, kernel, sharding, precision, and micro-batch limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define

from loraplug import FUSED_EXPERTS, Encoded, Placement, Run, Share, adapted_share, computing_in, mixed_precision
from loraplug_train.adapters.attached import attached, is_peft
from loraplug_train.adapters.eva import begin_with_eva
from loraplug_train.cpu import kernel
from loraplug_train.engine import broadcast, checks, heads, liger, shards, zero
from loraplug_train.engine.batches import MicroBatchLimits
from loraplug_train.engine.forecast import needs_checkpointing
from loraplug_train.engine.policy import PolicyModel
from loraplug_train.engine.rows import StepRows
from loraplug_train.engine.separation import separation
from loraplug_train.objectives.base import Objective

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from loraplug_train.trainer import EngineTrainer


@define(eq=False)
class PreparedModel:
    """A model that can be trained.

    Attributes:
        adapted: the model with what is trained in it.
        trained: that, by name.
        coverage: which of the model's layers have adapters.
    """

    adapted: Any
    policy: PolicyModel
    trained: Mapping[str, torch.nn.Parameter]
    coverage: Share


def prepare_model(
    options: EngineTrainer,
    objective: Objective,
    run: Run,
    model: PreTrainedModel,
    load_model: Callable[[Placement], PreTrainedModel],
    encoded: Encoded,
    lengths: Sequence[int],
) -> PreparedModel:
    """Attach adapters, install a kernel, shard and measure, in place; called by every process."""
    checks.check_router_loss(options, model)
    dtype = model.dtype
    adapted, left_out = attached(options, model)
    lora = options.lora_options
    if lora is not None and lora.init_lora_weights == "eva":
        rows = StepRows(encoded.dataset)
        with computing_in(dtype, adapted.device):
            begin_with_eva(run, lora, adapted, (one for row in rows for one in objective.sequences(row)))
    coverage = adapted_share(adapted, left_out)
    _say_coverage(run, coverage, "adapters on" if is_peft(adapted) else "trained:")
    fast, said = False, "plain kernel, as asked"
    if options.kernel == "liger":
        said = liger.install(adapted)
    if sharded := (kind := shards.requested()) in shards.SHARDED:
        said = shards.shard(adapted)
    elif options.kernel == "auto":
        fast, said = kernel.install(adapted)
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    broadcast.broadcast_parameters(run.distributed, trained.values())
    run.say(said + _machine(model))
    if kind.startswith("zero") and not sharded:
        run.say(zero.whole(adapted, int(kind[-1])))
    limits = _limits(options, run, adapted, lengths, fast)
    with computing_in(dtype, adapted.device):
        _keep_apart(run, objective, adapted, limits, encoded, lengths, fast=fast, sharded=sharded)
    if limits.checkpointing:
        adapted.activation_checkpointing_enable({"use_reentrant": False})
    if not fast and not heads.is_adapted(adapted):
        heads.install(adapted)
    mixed_precision(adapted, dtype)  # the outermost wrapper of the base's forward
    policy = PolicyModel(
        adapted, limits, run.distributed, fast, sharded=sharded, trained=trained, router_loss=options.router_loss
    )
    if why := policy.choose_head():
        run.say(f"losses are computed from the model's own logits (trl's chunked head is not used): {why}")
    if objective.needs_reference or objective.keeps_reference:
        _take_reference(policy, objective.reference_model(run=run), load_model)
    lora = options.lora_options
    if objective.needs_reference and policy.reference is None and lora is not None and lora.start_from is not None:
        policy.keep_start()
    return PreparedModel(adapted, policy, trained, coverage)


def _take_reference(policy: PolicyModel, other: Any, load_model: Callable[[Placement], PreTrainedModel]) -> None:
    """Give a policy the frozen model that it is compared with, where that is not its base without adapters.

    Args:
        other: the one that the objective brings; None: the base, once more where it has no adapters to switch off.
    """
    if other is None and is_peft(policy.module):
        return
    policy.reference = (
        (load_model(Placement(role="reference")) if other is None else other).requires_grad_(False).eval()
    )
    policy.reference_own_head = policy.own_head
    if other is not None or not policy.own_head:
        heads.install(policy.reference)
    mixed_precision(policy.reference, policy.reference.dtype)  # as the policy computes
    if other is not None:
        policy.reference_own_head = bool(heads.differs(other))


def _limits(options: EngineTrainer, run: Run, adapted: Any, lengths: Sequence[int], fast: bool) -> MicroBatchLimits:
    on_gpu = adapted.device.type != "cpu"
    wanted = options.gradient_checkpointing
    longest = max(max(lengths), kernel.MICRO_TOKENS if fast else 0)
    checkpointing = needs_checkpointing(adapted, longest, fast) if wanted == "auto" else wanted
    if wanted == "auto" and checkpointing:
        run.say("the longest row may not fit into memory: gradient checkpointing is on")
    if options.micro_batch != "auto":
        return MicroBatchLimits(options.micro_batch, None, checkpointing)
    if fast:
        return MicroBatchLimits(max(len(lengths), 1), kernel.MICRO_TOKENS, checkpointing)
    # on a CPU more rows at once are no faster; on a GPU short rows fill the memory that the longest one needs anyway
    most = max(lengths) if on_gpu else None
    return MicroBatchLimits(max(len(lengths), 1) if on_gpu else 1, most, checkpointing)


def _keep_apart(
    run: Run,
    objective: Objective,
    adapted: Any,
    limits: MicroBatchLimits,
    encoded: Encoded,
    lengths: Sequence[int],
    *,
    fast: bool,
    sharded: bool,
) -> None:
    """Choose a layout in which sequences do not attend to each other, in place; logs it if they cannot be packed."""
    several = objective.schema == "pairs" or objective.needs_reference or objective.schema != "tokens"
    packed = "seq_lengths" in encoded.dataset.column_names and any(
        len(row or ()) > 1 for row in encoded.dataset["seq_lengths"]
    )
    if not packed and not several and limits.max_rows == 1:
        return
    found = run.distributed.broadcast(separation(adapted, fast))
    limits.way, limits.limit = found.way, found.limit
    if found.way == "one-by-one":
        limits.max_rows = 1
    longest = max(lengths)
    most = limits.max_rows * longest if limits.max_tokens is None else max(longest, limits.max_tokens)
    if found.limit is not None and most > found.limit:
        limits.max_tokens = min(found.limit, limits.max_tokens or found.limit)
        if sharded and several:  # every process must make equally many calls in the same order
            limits.way, limits.max_rows = "one-by-one", 1
    elif found.way == "end-to-end":
        return
    run.say(found.sentence())


def _say_coverage(run: Run, coverage: Share, what: str) -> None:
    run.say(f"{what} {coverage.sentence()}")
    fused, _ = coverage.rest.get(FUSED_EXPERTS, (0, ()))
    if fused:
        run.warn(
            f"{fused / coverage.total:.0%} of the layers' weights are fused experts, which get no adapter; "
            'target_modules = ["all-linear", "experts"] adapts them too, at the cost of memory and time'
        )


def _machine(model: PreTrainedModel) -> str:
    """Threads and wait policy of training on the CPU, for the log; `loraplug` sets the policy where the user has
    not.
    """
    if model.device.type != "cpu":
        return ""
    import torch

    threads = torch.get_num_threads()
    policy = os.environ.get("OMP_WAIT_POLICY", "not set")
    return f"; {threads} thread{'' if threads == 1 else 's'}, OMP_WAIT_POLICY={policy}"
