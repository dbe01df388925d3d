"""A model larger than one device: FSDP2 keeps a part of every frozen weight on each, adapters stay whole everywhere.

A block's weights are gathered while it computes (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html).
What is trained is small and not sharded, so that gradients, optimizer and checkpoints are what they are without shards.
"""

from __future__ import annotations

import os
from typing import Any

from loraplug import InputError
from loraplug_sft import world

WHERE = "accelerate's config"
QUANTISED = "a quantised model cannot be sharded; leave out [quantizer], or set use_fsdp: false"


def asked() -> bool:
    """Whether accelerate's config, which its launcher gives through the environment, asks for FSDP.

    Raises:
        InputError: it asks for what is not done here: DeepSpeed, FSDP1, shards in the CPU's memory.
    """
    if _yes("ACCELERATE_USE_DEEPSPEED"):
        raise InputError(
            "DeepSpeed is not supported; for models larger than one GPU take `--use_fsdp --fsdp_version 2`, "
            "for those that fit `--multi_gpu`",
            where=WHERE,
        )
    if not _yes("ACCELERATE_USE_FSDP") or world.size() == 1:
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise InputError("FSDP1 is not supported; set fsdp_version: 2", where=WHERE)
    if _yes("FSDP_OFFLOAD_PARAMS"):
        raise InputError("fsdp_offload_params is not supported; set it to false", where=WHERE)
    return True


def spread(model: Any) -> str:
    """Shard the frozen weights of a model with adapters, in place, over all processes; says what each holds.

    Must come before its trainer is made: transformers and accelerate then leave it as it is. Calls of the model and of
    its `generate` are collective from here on: every process makes equally many, forward and backward.

    Raises:
        InputError: the model is quantised; its blocks are not known.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if getattr(model, "quantization_method", None) is not None:
        raise InputError(QUANTISED, where=WHERE)
    names = getattr(model, "_no_split_modules", None) or ()
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise InputError("where this model can be sharded is not known", where=WHERE, todo="set use_fsdp: false")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for parameter in trained:
        parameter.data = parameter.data.to(device)
    options = {"mesh": init_device_mesh(device, (world.size(),)), "ignored_params": trained}
    gathered_once = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() in ("false", "shard_grad_op")
    for block in blocks:
        fully_shard(block, reshard_after_forward=not gathered_once, **options)
    fully_shard(model, **options)
    register_fsdp_forward_method(model, "generate")
    os.environ.pop("ACCELERATE_USE_FSDP", None)  # or accelerate shards on its own, adapters too
    held = sum(getattr(parameter, "_local_tensor", parameter).numel() for parameter in model.parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    return f"FSDP2: {held:,} of {total:,} parameters on each of {world.size()} processes"


def _yes(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes")
