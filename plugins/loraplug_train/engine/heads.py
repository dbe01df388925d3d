"""Log-probabilities from a model's own logits, for models where trl's chunked head would be wrong or is refused.

trl multiplies the last hidden state with the bare weight of the output layer. That leaves out adapters on it, which trl
refuses, and whatever else a model does there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from loraplug_train.engine.reach import RAISED, told_in_words

_IGNORED = -100
_TOKENS = 8
_FAR = 0.05  # nats per token: far above rounding, far below the effect of a missing scale or layer


def is_adapted(model: Any) -> bool:
    """Whether adapters were put on the output layer of a `PeftModel`, or rows of it are trained."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import TrainableTokensWrapper

    return isinstance(model.get_output_embeddings(), BaseTunerLayer | TrainableTokensWrapper)


def install(model: Any) -> None:
    """Install trl's head, which computes log-probabilities from the last hidden state in chunks; in place.

    The head uses the bare output layer, without adapters on it: `differs` finds out whether that is right.
    """
    from trl.trainer import add_fused_lm_head

    add_fused_lm_head(model.get_base_model() if hasattr(model, "get_base_model") else model)


def own(
    model: Any, inputs: Mapping[str, Any], labels: torch.Tensor, *, labelled_only: bool, smoothing: float = 0.0
) -> tuple[Any, torch.Tensor]:
    """The model's output, and the log-probabilities of the labels as `log_probs` gives them.

    Args:
        inputs: model inputs (`input_ids` and what goes with it), without labels.
        labels: shape (rows, tokens), -100 where nothing is trained.
        labelled_only: compute logits only where there is a label; for models whose forward pass knows
            `logits_to_keep`, and a single row (or several end to end).
        smoothing: probability mass that is spread evenly over the vocabulary (label smoothing).
    """
    if not labelled_only or len(labels) > 1:
        out = model(**inputs, use_cache=False)
        return out, log_probs(out.logits, labels, smoothing)
    targets = labels[0, 1:]
    kept = (targets != _IGNORED).nonzero().flatten()
    asked = kept if len(kept) else kept.new_zeros(1)  # with shards every call must reach the output layer
    out = model(**inputs, use_cache=False, logits_to_keep=asked)
    found = -_losses(out.logits[0], targets[asked], smoothing)
    return out, torch.zeros_like(targets, dtype=torch.float32).index_put((asked,), found)[None]


def _losses(logits: Any, targets: Any, smoothing: float) -> Any:
    """Cross-entropies in nats, float32 of shape (labels,); 0 where the target is -100."""
    return cross_entropy(logits.float(), targets, ignore_index=_IGNORED, reduction="none", label_smoothing=smoothing)


def log_probs(logits: Any, labels: Any, smoothing: float = 0.0) -> Any:
    """Log-probabilities in nats of each next token with a label.

    Args:
        logits: shape (rows, tokens, vocabulary).
        labels: shape (rows, tokens), -100 where nothing is trained.

    Returns:
        float32 of shape (rows, tokens - 1), 0 where nothing is trained.
    """
    targets = labels[:, 1:].to(logits.device)
    kept = targets != -100
    losses = _losses(logits[:, :-1][kept], targets[kept], smoothing)
    return torch.zeros(targets.shape, device=logits.device).masked_scatter(kept, -losses)


def differs(model: Any, router: bool = False) -> str:
    """Why trl's installed head cannot be used, or an empty text; compared on a row of 8 tokens.

    Args:
        router: whether router_loss is above 0.

    Raises:
        InputError: the model fails on that row in evaluation mode.
    """
    training = model.training
    model.eval()
    asked = {"output_router_logits": True} if router else {}
    try:
        with told_in_words(model), torch.no_grad():
            ids = torch.randint(3, model.config.get_text_config().vocab_size, (1, _TOKENS), device=model.device)
            # trl's first: DeepSpeed gathers for the backward pass what it sees a forward pass read of another module,
            # but not if that module has just run and its weight is still there
            try:
                out = model(input_ids=ids, labels=ids, use_cache=False, fused_lm_head=True, **asked)
            except (*RAISED, RecursionError) as error:
                return f"trl's head fails on this model ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            own = log_probs(model(input_ids=ids, use_cache=False).logits, ids)
            apart = float((out.log_probs - own).abs().mean())
            return "" if apart < _FAR else f"those of trl's head differ by {apart:.2g} nats per token"
    finally:
        model.train(training)
