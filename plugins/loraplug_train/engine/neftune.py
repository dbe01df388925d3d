"""NEFTune: noise on the embeddings in training (Jain et al. 2023, https://arxiv.org/abs/2310.05914)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def embedding_noise(model: Any, alpha: float | None) -> Iterator[None]:
    """Context manager: add uniform noise of up to alpha / √(tokens · hidden size) to the embeddings in training
    mode.
    """
    import torch

    if alpha is None:
        yield
        return

    def move(_: Any, __: Any, output: Any) -> Any:
        if not model.training:
            return output
        most = alpha / (output.shape[-2] * output.shape[-1]) ** 0.5
        return output + torch.empty_like(output).uniform_(-most, most)

    handle = model.get_input_embeddings().register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()
