"""Sharding: each process holds a part of every frozen weight, while adapters are replicated.

FSDP2 is done here, DeepSpeed's ZeRO-3 in `zero`; accelerate's config says which. Under FSDP2 a block's weights are
gathered while it computes (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html). What is trained is
small and not sharded, so that gradients, optimizer and checkpoints are what they are without shards.
"""

from __future__ import annotations

import os
from typing import Any

from loraplug import Distributed, InputError
from loraplug_train.engine import zero

WHERE = zero.WHERE
SHARDED = ("fsdp2", "zero3")  # strategies under which a process holds only a part of each weight
QUANTISED = "a quantised model cannot be sharded; leave out [quantizer], or {}"
_FSDP, _DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
_captured: list[str] = []  # the strategy this process was launched with, once captured


def requested() -> str:
    """The sharding strategy requested at launch: "", "fsdp2", or "zero0" to "zero3".

    accelerate's launcher passes it in the environment.

    Raises:
        InputError: it is not supported: FSDP1, or FSDP2 with CPU offload.
    """
    if _captured:
        return _captured[0]
    if _yes(_DEEPSPEED):
        return f"zero{zero.settings()['stage']}"
    if not _yes(_FSDP) or _size() == 1:
        return ""
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise InputError("FSDP1 is not supported; set fsdp_version: 2", where=WHERE)
    if _yes("FSDP_OFFLOAD_PARAMS"):
        raise InputError("fsdp_offload_params is not supported; set it to false, or use ZeRO-3", where=WHERE)
    return "fsdp2"


def quantised() -> str | None:
    """Why a quantizer cannot be used with the requested sharding; None if it can."""
    if (kind := requested()) not in SHARDED:
        return None
    return QUANTISED.format("set use_fsdp: false" if kind == "fsdp2" else "set zero_stage: 2")


def capture() -> str:
    """Keep the requested strategy and remove it from the environment, so that accelerate does not shard as well."""
    kind = requested()
    for name in (_FSDP, _DEEPSPEED):
        os.environ.pop(name, None)
    _captured[:] = [kind]
    return kind


def shard(model: Any) -> str:
    """Shard the frozen weights of a model with adapters, in place; returns a sentence for the log.

    Call it before accelerate sees the model, which then leaves it alone. Calls of the model and of its `generate` are
    collective from here on: every process makes equally many, forward and backward.

    Raises:
        InputError: the model is quantized, or does not say which of its blocks must stay on one device.
    """
    if getattr(model, "quantization_method", None) is not None:
        raise InputError(str(quantised()), where=WHERE)
    return zero.shard(model, _size()) if requested() == "zero3" else _fsdp2(model)


def _fsdp2(model: Any) -> str:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    from torch.distributed.tensor import DTensor

    from loraplug_train import compat

    names = compat.undivided(model)
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise InputError(
            "this model cannot be sharded: it does not name its blocks (_no_split_modules)",
            where=WHERE,
            todo="set use_fsdp: false",
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for parameter in trained:
        parameter.data = parameter.data.to(device)
    options = {"mesh": init_device_mesh(device, (_size(),)), "ignored_params": trained}
    gathered_once = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() in ("false", "shard_grad_op")
    for block in blocks:
        fully_shard(block, reshard_after_forward=not gathered_once, **options)
    fully_shard(model, **options)
    register_fsdp_forward_method(model, "generate")
    parts = (one.to_local() if isinstance(one, DTensor) else one for one in model.parameters())
    held = sum(part.numel() for part in parts)
    total = sum(parameter.numel() for parameter in model.parameters())
    return f"FSDP2: {held:,} of {total:,} parameters on each of {_size()} processes"


def _size() -> int:
    return Distributed.launched().world_size


def _yes(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes")
