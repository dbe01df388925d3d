"""How much each input of a matrix counts: the mean square of what it reads over the run's own rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import Run

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    Array = np.ndarray[Any, Any]


def measure_importance(folder: Path, rows: Sequence[Sequence[int]], run: Run) -> Mapping[str, Array]:
    """Run rows of token ids through a model folder, which is in memory whole, as it is stored.

    Returns:
        Of each weight of a linear layer, by transformers' names: the mean of x² per column, fp32.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True, trust_remote_code=False)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, layer: nn.Module, given: tuple[Tensor, ...]) -> None:  # noqa: ARG001
        values = given[0].detach().float().reshape(-1, given[0].shape[-1])
        sums[name] = sums.get(name, torch.zeros(())) + values.square().sum(dim=0)
        counts[name] = counts.get(name, 0) + len(values)

    hooks = [
        layer.register_forward_pre_hook(partial(add, name))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    with torch.inference_mode(), run.progress("measuring importance", len(rows)) as bar:
        for row in rows:
            model(torch.tensor([list(row)]))
            bar.advance()
    for hook in hooks:
        hook.remove()
    return {f"{name}.weight": (total / counts[name]).numpy() for name, total in sums.items()}
