"""Measures the speed of a dtype on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from loraplug import Run

if TYPE_CHECKING:
    import torch

_SIDE, _TIMES = 256, 5  # one product is 34 million operations: a millisecond with hardware support
_SLOW = 2.0


def tell_cost(dtype: torch.dtype, run: Run) -> None:
    """Warn of a dtype whose matrix products are slower than float32's, as the hardware emulates it."""
    import torch

    if dtype == torch.float32:
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    slower = _seconds(dtype, device) / _seconds(torch.float32, device)
    if slower > _SLOW:
        name = str(dtype).removeprefix("torch.")
        run.warn(
            f"model.dtype: this machine has no hardware support for {name}: a matrix product takes {slower:.0f} times "
            "as long as "
            'in float32 (just measured). dtype = "auto" chooses a dtype with hardware support'
        )


def _seconds(dtype: torch.dtype, device: str) -> float:
    """The shortest time of a few products of two square matrices."""
    import torch

    left = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    taken = []
    for _ in range(_TIMES + 1):  # the first one is a warm-up
        begun = time.perf_counter()
        (left @ left)[0, 0].item()  # waits for a GPU
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])
