"""The checks of optimizers and schedulers. Slow libraries load inside."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loraplug_tools.plugins.conformance import require

_RATE = 1e-2
_STEPS = 4


def _weights() -> list[Any]:
    """Two matrices and a vector, always the same."""
    import torch

    draw = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(*shape, generator=draw)) for shape in ((4, 3), (3, 5), (5,))]


def _made(part: Any, weights: list[Any]) -> Any:
    groups = [{"params": weights[:2], "weight_decay": 0.0}, {"params": weights[2:], "weight_decay": 0.0}]
    return part.make(groups=groups, learning_rate=_RATE)


def _loss(weights: list[Any]) -> Any:
    """Of a product that is to be 1 everywhere."""
    import torch

    first, second, third = weights
    inputs = torch.arange(24, dtype=torch.float32).view(6, 4) / 24
    return ((inputs @ first @ second + third - 1) ** 2).mean()


def _train(optimizer: Any, weights: list[Any], steps: int) -> None:
    for _ in range(steps):
        _loss(weights).backward()
        optimizer.step()
        optimizer.zero_grad()


def _learns(part: Any, room: Path) -> None:  # noqa: ARG001
    import torch

    weights = _weights()
    before = float(_loss(weights).detach())
    optimizer = _made(part, weights)
    require(isinstance(optimizer, torch.optim.Optimizer), f"make() gives {type(optimizer).__name__}")
    _train(optimizer, weights, 20)
    after = float(_loss(weights).detach())
    require(after < before, f"after 20 steps the loss is {after:.4g}, and was {before:.4g}")


def _goes_by_the_rate(part: Any, room: Path) -> None:  # noqa: ARG001
    import torch

    weights = _weights()
    before = [weight.detach().clone() for weight in weights]
    optimizer = _made(part, weights)
    require(all(group["lr"] == _RATE for group in optimizer.param_groups), "its groups do not have the requested `lr`")
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    _train(optimizer, weights, 1)
    same = all(torch.equal(one, other) for one, other in zip(before, weights, strict=True))
    require(same, "with `lr` = 0 in every group a step still changes the parameters")


def _goes_on_alike(part: Any, room: Path) -> None:
    """Through what a checkpoint is: tensors in a safetensors file, all else as JSON."""
    import torch
    from safetensors.torch import load_file, save_file

    whole = _weights()
    _train(_made(part, whole), whole, 2 * _STEPS)
    weights = _weights()
    optimizer = _made(part, weights)
    _train(optimizer, weights, _STEPS)
    state = optimizer.state_dict()
    tensors: dict[str, Any] = {}

    def plain(value: Any) -> Any:
        if torch.is_tensor(value):
            tensors[f"t{len(tensors)}"] = value.detach().clone().contiguous()
            return {"tensor": f"t{len(tensors) - 1}"}
        if isinstance(value, dict):
            return {"items": [[key, plain(item)] for key, item in value.items()]}
        return value

    try:
        text = json.dumps({"state": plain(state["state"]), "groups": state["param_groups"]})
    except TypeError as error:
        require(False, f"its state_dict() holds what a checkpoint cannot: {error}")
    save_file(tensors | {"none": torch.zeros(1)}, room / "state.safetensors")
    read, kept = json.loads(text), load_file(room / "state.safetensors")

    def back(value: Any) -> Any:
        if isinstance(value, dict):
            return kept[value["tensor"]] if "tensor" in value else {key: back(item) for key, item in value["items"]}
        return value

    again = _made(part, weights)
    again.load_state_dict({"state": back(read["state"]), "param_groups": read["groups"]})
    _train(again, weights, _STEPS)
    same = all(torch.equal(one, other) for one, other in zip(whole, weights, strict=True))
    require(same, "saved and loaded after 4 of 8 steps, the parameters end otherwise: keep all of it in state_dict()")


OPTIMIZER_CHECKS: dict[str, Callable[[Any, Path], None]] = {
    "it lowers a loss": _learns,
    "it uses the learning rate of its groups": _goes_by_the_rate,
    "saved and loaded, it continues identically": _goes_on_alike,
}


def _course(part: Any, steps: int, warmup: int) -> list[float]:
    return [part.factor(step=step, steps=steps, warmup=warmup) for step in range(steps + 1)]


def _sound_factors(part: Any, room: Path) -> None:  # noqa: ARG001
    for steps, warmup in ((1, 0), (2, 1), (7, 0), (100, 5)):
        found = _course(part, steps, warmup)
        where = f"of {steps} steps, {warmup} of them warmup"
        odd = [value for value in found if not isinstance(value, int | float) or not math.isfinite(value) or value < 0]
        require(not odd, f"{where}: factors must be finite numbers of at least 0, not {odd[:1]}")
        require(any(found[:-1]), f"{where}: every factor is 0, so nothing would be learned")
        require(found == _course(part, steps, warmup), f"{where}: asked twice, the factors differ")


SCHEDULER_CHECKS: dict[str, Callable[[Any, Path], None]] = {"its factors are valid and reproducible": _sound_factors}
