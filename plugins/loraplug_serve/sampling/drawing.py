"""Choosing the next token: the most probable one, or one sampled by random numbers that depend on its place alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import field, frozen, validators


@frozen
class Drawing:
    """How the tokens of an answer are chosen.

    Attributes:
        temperature: 0 is greedy decoding.
        top_p: nucleus sampling: the most probable tokens up to this total probability.
        max_tokens: the longest answer, in tokens.
        seed: of the random numbers; the same seed gives the same tokens.
        top_k: the number of most probable tokens to sample from; 0 is all.
        min_p: drops tokens less probable than this fraction of the most probable one.
        repetition_penalty: what the logits of tokens that stand in the text are divided by where they are positive, and
            multiplied with where not (Keskar et al. 2019); 1 changes nothing.
    """

    temperature: float = field(default=0.0, validator=validators.ge(0))
    top_p: float = field(default=1.0, validator=[validators.gt(0), validators.le(1)])
    max_tokens: int = field(default=512, validator=validators.ge(1))
    seed: int = 42
    top_k: int = field(default=0, validator=validators.ge(0))
    min_p: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    repetition_penalty: float = field(default=1.0, validator=validators.gt(0))


def stream(seed: int, prompt: Sequence[int], sample: int) -> np.ndarray:
    """The key of an answer's random numbers, from seed, prompt and sample number: two 64-bit integers."""
    told = hashlib.blake2b(f"{seed} {sample} ".encode() + np.asarray(prompt, np.int64).tobytes(), digest_size=16)
    return np.frombuffer(told.digest(), np.uint64)


def uniform(key: np.ndarray, position: int) -> float:
    """The random number in [0, 1) for one token: Philox (Salmon et al. 2011), with the token's position as counter."""
    drawn = np.random.Philox(key=key, counter=np.array([position, 0, 0, 0], np.uint64)).random_raw()
    return (int(drawn) >> 11) * 2.0**-53


def choose(
    logits: Any,
    keys: Sequence[np.ndarray],
    position: int | Sequence[int],
    drawing: Drawing,
    texts: Sequence[Sequence[int]] = (),
) -> tuple[Any, Any, Any]:
    """The next token of each answer.

    Args:
        logits: shape (answers, vocabulary), any float dtype.
        keys: those of `stream`, one for each answer.
        position: number of the token in its answer, from 0; one for all answers, or one for each.
        texts: ids of prompt and answer so far, for each answer, which a repetition penalty needs.

    Returns:
        Three tensors of shape (answers,): token ids (int64); their log-probabilities in nats under the model itself, at
        temperature 1 (float32); and how far the choice was from another (float64): for the likeliest token the
        distance in nats to the second, for a drawn one that of the random number to the next token's share.
    """
    logits = logits.float()
    logprobs = logits.log_softmax(-1)
    positions = [position] * len(keys) if isinstance(position, int) else position
    if drawing.repetition_penalty != 1:
        logits = _penalised(logits, texts, drawing.repetition_penalty)
    if drawing.temperature == 0:
        best = logits.topk(2)
        tokens, margins = best.indices[:, 0], (best.values[:, 0] - best.values[:, 1]).double()
    else:
        tokens, margins = _drawn(logits, [uniform(*one) for one in zip(keys, positions, strict=True)], drawing)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0], margins


def _penalised(logits: Any, texts: Sequence[Sequence[int]], penalty: float) -> Any:
    import torch

    logits = logits.clone()
    for row, text in zip(logits, texts, strict=True):
        seen = torch.tensor(sorted(set(text)), device=logits.device)
        row[seen] = torch.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
    return logits


def _drawn(logits: Any, numbers: Sequence[float], drawing: Drawing) -> tuple[Any, Any]:
    """Sample by inverting the cumulative distribution in the order of ids; also the distance to its nearest step.

    Rounding moves the steps a little, and so changes a token only if the random number lies at a step.
    """
    import torch

    shares = (logits / drawing.temperature).softmax(-1).double()
    if 0 < drawing.top_k < shares.shape[1]:
        shares = shares * (shares >= shares.topk(drawing.top_k).values[:, -1:])
    if drawing.min_p:
        shares = shares * (shares >= drawing.min_p * shares.amax(-1, keepdim=True))
    if drawing.top_p < 1:
        shares = shares / shares.sum(-1, keepdim=True)
        sorted_shares, order = shares.sort(descending=True)
        before = sorted_shares.cumsum(-1) - sorted_shares
        kept = torch.zeros_like(shares, dtype=torch.bool).scatter(1, order, before < drawing.top_p)
        shares = shares * kept
    ends = shares.cumsum(-1)
    total = ends[:, -1:]
    at = torch.tensor(numbers, dtype=torch.float64, device=logits.device)[:, None] * total
    tokens = torch.searchsorted(ends, at, right=True).clamp(max=shares.shape[1] - 1)
    upper = ends.gather(1, tokens)
    lower = upper - shares.gather(1, tokens)
    margins = torch.minimum(at - lower, upper - at) / total
    return tokens[:, 0], margins[:, 0]
