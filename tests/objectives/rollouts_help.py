"""Rollouts of random words: what a model would have said, with its log-probabilities, and an advantage of each."""

from __future__ import annotations

from typing import Any

import torch
from objectives_help import PlainBatch, PlainPolicy, pair_rows

from loraplug_train.objectives.grpo import Grpo


def rollout_rows(count: int, module: Any, seed: int = 0, moved: float = 0.3) -> list[dict[str, Any]]:
    """Answers in groups of two, one better and one worse.

    Args:
        module: whose log-probabilities they have, but for noise of the standard deviation `moved`, as if the model had
            been trained a little since.
    """
    rows = [
        {"prompt_ids": row["prompt_ids"], "completion_ids": row["chosen_ids"], "advantage": (1.0, -0.7)[number % 2],
         "group": f"g{number // 2}", "row": row["row"]}
        for number, row in enumerate(pair_rows(count, seed))
    ]  # fmt: skip
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for row in rows:
            told = PlainPolicy(module).log_probs(PlainBatch.of(Grpo(), [row]))
            told = (told + moved * torch.randn(len(told), generator=noise)).clamp(max=0)
            row["old_log_probs"] = told.tolist()
    return rows
