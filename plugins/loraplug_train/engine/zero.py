"""DeepSpeed by accelerate's config: ZeRO-3 shards the frozen weights over processes, or offloads them to the CPU.

Trained parameters stay outside, replicated on every process, as with FSDP2 (see `shards`): DeepSpeed gathers and frees
frozen weights, and gradients, optimizer and checkpoints are the same as without it.
https://deepspeed.readthedocs.io/en/latest/zero3.html, https://huggingface.co/docs/accelerate/usage_guides/deepspeed
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loraplug import InputError

WHERE = "accelerate's config"
_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"


def settings() -> dict[str, Any]:
    """DeepSpeed's settings `zero_optimization`, from the file that accelerate's config names, or else from its own
    keys.

    Raises:
        InputError: the file cannot be read; the stage is not 0 to 3; stage 3 without DeepSpeed installed.
    """
    found = _of_file() if os.environ.get(_FILE, "none") != "none" else _of_keys()
    if found.setdefault("stage", 0) not in (0, 1, 2, 3):  # DeepSpeed's own default
        raise InputError(f"zero_stage is {found['stage']!r}, not 0, 1, 2 or 3", where=WHERE)
    if found["stage"] == 3 and find_spec("deepspeed") is None:
        raise InputError("DeepSpeed is not installed; pip install deepspeed", where=WHERE)
    return found


def shard(model: Any, world_size: int) -> str:
    """Shard the frozen weights of a model with adapters with DeepSpeed, in place; returns a sentence for the log.

    Calls of the model are collective from here on. `model` computes and is saved as before; its frozen parameters are
    empty between calls.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", device)  # or DeepSpeed would detect it and warn
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    if device == "cpu":  # else DeepSpeed compiles its own collectives, and there may be no compiler; gloo suffices
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    given = {key: value for key, value in settings().items() if value != "auto" and key != "offload_optimizer"}
    config = {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed requires a batch size; nothing depends on it
        "zero_optimization": given,
        "bf16": {"enabled": model.dtype == torch.bfloat16},
        # on a device that DeepSpeed allows no float16 weights are shared out as they are, and it casts none
        "fp16": {"enabled": model.dtype == torch.float16 and bool(get_accelerator().is_fp16_supported())},
    }
    for tensor in [*filter(lambda one: one.requires_grad, model.parameters()), *model.buffers()]:
        tensor.data = tensor.data.to(device)
    with _apart(model):
        deepspeed.init_distributed(dist_init_required=None if world_size > 1 else True)
        # one by one: all at once would not fit into memory
        deepspeed.zero.Init(module=model, config_dict_or_path=config)
        deepspeed.initialize(model=model, config=config)
    every = list(model.parameters())
    held = sum(getattr(one, "ds_tensor", one).numel() for one in every)
    total = sum(getattr(one, "ds_numel", one.numel()) for one in every)
    return (
        f"DeepSpeed ZeRO-3: {held:,} of {total:,} parameters on each of {world_size} process{'es' * (world_size > 1)}"
    )


def whole(model: Any, stage: int) -> str:
    """The log line for stages 0 to 2, which shard only what is small with adapters."""
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    shared = {0: "nothing", 1: "the optimizer", 2: "optimizer and gradients"}[stage]
    return (
        f"DeepSpeed stage {stage} would shard {shared}, which are small with adapters ({count:,} parameters): they are "
        "replicated, and training is data-parallel"
    )


@contextmanager
def _apart(model: Any) -> Iterator[None]:
    """Context manager: remove the trained modules from the module tree, so that DeepSpeed does not shard them."""
    import torch

    trained = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if (found := list(child.parameters())) and all(parameter.requires_grad for parameter in found)
    ]
    for parent, name, _ in trained:
        setattr(parent, name, torch.nn.ModuleDict())
    try:
        yield
    finally:
        for parent, name, child in trained:
            setattr(parent, name, child)


def _of_keys() -> dict[str, Any]:
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    given: dict[str, Any] = {"stage": int(stage) if stage.isdecimal() else stage}
    device = os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none")
    if device != "none":
        path = os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_NVME_PATH", "none")
        given["offload_param"] = {"device": device} | ({"nvme_path": path} if path != "none" else {})
    return given


def _of_file() -> dict[str, Any]:
    """Read DeepSpeed's config: a path, or JSON, plain or in base64, as accelerate accepts."""
    named = os.environ[_FILE]
    try:
        if Path(named).is_file():
            text = Path(named).read_text(encoding="utf-8")
        else:
            text = named if named.lstrip().startswith("{") else base64.urlsafe_b64decode(named).decode()
        found = json.loads(text)["zero_optimization"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"its DeepSpeed config {named[:200]} cannot be read ({error!r})", where=WHERE) from None
    if not isinstance(found, dict):
        raise InputError(f"zero_optimization in {named[:200]} is not a JSON object", where=WHERE)
    return found
