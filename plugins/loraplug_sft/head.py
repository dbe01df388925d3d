"""Losses from a model's own logits, and whether trl's head, which saves them, computes the same."""

from __future__ import annotations

from typing import Any

_TOKENS = 8
_FAR = 0.05  # nats a token: far above rounding, far below what a missing scale or layer does


def log_probs(logits: Any, labels: Any) -> Any:
    """Log-probabilities in nats of each next token with a label.

    Args:
        logits: shape (rows, tokens, vocabulary).
        labels: shape (rows, tokens), -100 where nothing is trained.

    Returns:
        float32 of shape (rows, tokens - 1), 0 where nothing is trained.
    """
    import torch

    targets = labels[:, 1:].to(logits.device)
    kept = targets != -100
    losses = torch.nn.functional.cross_entropy(logits[:, :-1][kept].float(), targets[kept], reduction="none")
    return torch.zeros(targets.shape, device=logits.device).masked_scatter(kept, -losses)


def differs(model: Any, router: bool = False) -> str:
    """Why trl's head cannot be used for a model that has it, or an empty text; by a row of 8 tokens.

    Args:
        router: whether the router loss is asked for.
    """
    import torch

    training = model.training
    model.eval()
    asked = {"output_router_logits": True} if router else {}
    try:
        with torch.no_grad():
            ids = torch.randint(3, model.config.get_text_config().vocab_size, (1, _TOKENS), device=model.device)
            own = log_probs(model(input_ids=ids, use_cache=False).logits, ids)
            try:
                out = model(input_ids=ids, labels=ids, use_cache=False, fused_lm_head=True, **asked)
            except (RuntimeError, RecursionError, AttributeError, TypeError, ValueError) as error:
                return f"trl's head does not fit ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            apart = float((out.log_probs - own).abs().mean())
            return "" if apart < _FAR else f"those of trl's head are {apart:.2g} nats a token apart from them"
    finally:
        model.train(training)
