"""Optimizers and learning-rate schedules: by the names that transformers gives them, or as components."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loraplug import InputError, Run

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from loraplug_train.trainer import EngineTrainer


def make_optimizer(
    options: EngineTrainer, run: Run, arguments: TrainingArguments, model: Any, ratio: float | None
) -> Any:
    """The optimizer of the trained parameters.

    Args:
        arguments: its name and settings in transformers' words.
        ratio: the learning rate of B over that of A (LoRA+, Hayou et al. 2024); None: one for all.

    Raises:
        InputError: a component gave something else than an optimizer of these parameters.
    """
    kind, settings = _kind(options, arguments, model)
    if settings.get("is_paged") and all(one.device.type == "cpu" for one in model.parameters()):
        run.say(f"optimizer: {options.optimizer} pages its states to main memory, where they are on a CPU anyway")
        settings = {**settings, "is_paged": False}  # bitsandbytes would do the same, with a Python warning
    if ratio is not None:
        from peft.optimizers import create_loraplus_optimizer

        decay = {"loraplus_lr_ratio": ratio, "loraplus_weight_decay": options.weight_decay}
        return create_loraplus_optimizer(model, kind, **decay, **settings)
    if settings.get("optim_bits") == 8:
        _embeddings_in_32_bits(model)
    decayed: list[Any] = []
    plain: list[Any] = []
    undecayed = set(_undecayed(model))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if name in undecayed else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return kind(groups, **settings)


def _kind(options: EngineTrainer, arguments: TrainingArguments, model: Any) -> tuple[Any, dict[str, Any]]:
    """What makes an optimizer of groups of parameters, and the settings that it takes beside them."""
    from transformers import Trainer

    if isinstance(options.optimizer, str):
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
        return kind, settings
    part = options.optimizer

    def made(groups: Any, lr: float) -> Any:
        groups = [group for group in groups if group["params"]]
        optimizer = part.make(groups=groups, learning_rate=lr)
        if fault := _fault(optimizer, groups):
            todo = "tell the author of the optimizer"
            raise InputError(f"make() gave {fault}", where=f"trainer.optimizer {part.name}", todo=todo)
        return optimizer

    return made, {"lr": options.learning_rate}


def _fault(optimizer: Any, groups: Sequence[Mapping[str, Any]]) -> str | None:
    """What a training could not go on with, or would not train by."""
    from torch.optim import Optimizer

    if not isinstance(optimizer, Optimizer):
        return f"{type(optimizer).__name__}, no torch.optim.Optimizer"
    held = {id(one) for group in optimizer.param_groups for one in group["params"]}
    if {id(one) for group in groups for one in group["params"]} != held:
        return "an optimizer of other parameters than it was given"
    try:
        json.dumps(optimizer.state_dict()["param_groups"])
    except (TypeError, ValueError) as error:
        return f"an optimizer whose groups a checkpoint cannot hold ({error})"
    return None


def make_scheduler(options: EngineTrainer, optimizer: Any, steps: int) -> Any:
    """The learning-rate schedule over so many steps."""
    from transformers import get_scheduler

    warmup, course = int(options.warmup_ratio * steps), options.scheduler
    if not isinstance(course, str):
        from torch.optim.lr_scheduler import LambdaLR

        return LambdaLR(optimizer, lambda step: float(course.factor(step=step, steps=steps, warmup=warmup)))
    return get_scheduler(course, optimizer, num_warmup_steps=warmup, num_training_steps=steps)


def _undecayed(model: Any) -> Iterator[str]:
    """Names of biases and norm weights, which get no weight decay."""
    for name, module in model.named_modules():
        norm = "norm" in type(module).__name__.lower()
        for own, _ in module.named_parameters(recurse=False):
            if norm or own == "bias":
                yield f"{name}.{own}" if name else own


def _embeddings_in_32_bits(model: Any) -> None:
    """8 bits are too few for the moments of embeddings (Dettmers et al. 2021)."""
    import bitsandbytes
    from torch import nn

    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})


def flat_state(table: Mapping[Any, Any], name: str) -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries by path, `optimizer/0/exp_avg`."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat_state(value, f"{name}/{key}")
        else:
            yield f"{name}/{key}", value


def nested_state(values: Mapping[str, Any], name: str) -> dict[Any, Any]:
    """The inverse of `flat_state`; the outermost keys are integers."""
    state: dict[Any, Any] = {}
    for path, value in values.items():
        kind, *keys, last = path.split("/")
        if kind == name:
            at = state
            for key in keys:
                at = at.setdefault(int(key) if at is state else key, {})
            at[last] = value
    return state
