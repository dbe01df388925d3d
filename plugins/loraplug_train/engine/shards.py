"""A model larger than one device: each keeps a part of every frozen weight, adapters stay whole everywhere.

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
CUT = ("fsdp2", "zero3")  # the kinds in which a process holds a part of a weight only
QUANTISED = "a quantised model cannot be sharded; leave out [quantizer], or {}"
_FSDP, _DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
_settled: list[str] = []  # what this process was launched with, once it is settled


def asked() -> str:
    """How the weights are to be shared out: "", "fsdp2", or "zero0" to "zero3".

    accelerate's launcher says it through the environment; `settle` keeps it.

    Raises:
        InputError: it asks for what is not done here: FSDP1, FSDP2 in the CPU's memory.
    """
    if _settled:
        return _settled[0]
    if _yes(_DEEPSPEED):
        return f"zero{zero.settings()['stage']}"
    if not _yes(_FSDP) or _size() == 1:
        return ""
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise InputError("FSDP1 is not supported; set fsdp_version: 2", where=WHERE)
    if _yes("FSDP_OFFLOAD_PARAMS"):
        raise InputError("fsdp_offload_params is not supported; set it to false, or take ZeRO-3", where=WHERE)
    return "fsdp2"


def quantised() -> str | None:
    """What is wrong with a quantizer here, if anything."""
    if (kind := asked()) not in CUT:
        return None
    return QUANTISED.format("set use_fsdp: false" if kind == "fsdp2" else "set zero_stage: 2")


def settle() -> str:
    """As `asked`; that stands from here on, and accelerate, which looks there too, does not do it its own way."""
    kind = asked()
    for name in (_FSDP, _DEEPSPEED):
        os.environ.pop(name, None)
    _settled[:] = [kind]
    return kind


def spread(model: Any) -> str:
    """Share out the frozen weights of a model with adapters, in place, as `asked`; says what each process holds.

    Must come before its trainer is made: transformers and accelerate then leave it as it is. Calls of the model and of
    its `generate` are collective from here on: every process makes equally many, forward and backward.

    Raises:
        InputError: the model is quantised; its blocks are not known.
    """
    if getattr(model, "quantization_method", None) is not None:
        raise InputError(str(quantised()), where=WHERE)
    return zero.spread(model, _size()) if asked() == "zero3" else _fsdp2(model)


def _fsdp2(model: Any) -> str:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    from torch.distributed.tensor import DTensor

    from loraplug_train import compat

    names = compat.undivided(model)
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise InputError("where this model can be sharded is not known", where=WHERE, todo="set use_fsdp: false")
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
