"""Attention of many answers to few prompts, whose keys and values are in memory once.

The scores of the prompt's tokens and of an answer's own are computed separately, the former for all answers to a prompt
in one product, and go through one softmax: the result is that of attention to both
(Juravsky et al. 2024, Hydragen: https://arxiv.org/abs/2402.05099; there with two softmaxes that are combined).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

from loraplug_serve.sampling.compat import attention_of, base_of
from loraplug_serve.sampling.interrupt import interrupt_after

NAME = "loraplug_shared_prompts"
_ROOM = 64  # tokens by which the room for an answer's keys and values grows


class NotSharedError(Exception):
    """The model's attention is not supported here."""


@define
class Group:
    """Answers that are computed together.

    Attributes:
        prompts: for each prompt and layer its keys and values, each of shape (key-value heads, tokens, head size).
        counts: number of answers to each prompt; the batch has them in the order of the prompts.
        starts: shape (answers,): where the tokens of each answer begin in the cache, for answers that joined later than
            others; None if all begin at 0.
    """

    prompts: list[list[tuple[torch.Tensor, torch.Tensor]]]
    counts: list[int]
    starts: torch.Tensor | None = None


# the active one in this process, as transformers passes nothing of the caller's to attention functions
_group: Group | None = None


@contextmanager
def at_work(model: Any, group: Group) -> Iterator[None]:
    """While open, forward passes compute one token of each answer of `group`; for one caller at a time.

    Raises:
        NotSharedError: the model's attention cannot be replaced.
    """
    global _group
    base = base_of(model)
    before = attention_of(base)
    with interrupt_after():
        base.set_attn_implementation(NAME)
        _group = group
        try:
            if attention_of(base) != NAME:
                raise NotSharedError(f"{type(base).__name__} has an attention of its own")
            yield
        finally:
            _group = None
            base.set_attn_implementation(before)


class Room(DynamicLayer):  # type: ignore[misc] # mypy does not follow transformers
    """Keys and values of the answers' own tokens, in preallocated memory, so that a step does not copy them."""

    keys: Any
    values: Any
    all_keys: Any
    all_values: Any
    is_initialized: bool

    def update(self, key_states: Any, value_states: Any, *args: Any, **more: Any) -> tuple[Any, Any]:  # noqa: ARG002
        """Add those of the next token; see `DynamicLayer.update`."""
        at = self.keys.shape[-2] if self.is_initialized else 0
        end = at + key_states.shape[-2]
        if not self.is_initialized or end > self.all_keys.shape[-2]:
            self._grow(key_states, value_states, at, end + _ROOM)
        self.all_keys[:, :, at:end], self.all_values[:, :, at:end] = key_states, value_states
        self._show(end)
        return self.keys, self.values

    def _grow(self, keys: Any, values: Any, at: int, room: int) -> None:
        own, self.is_initialized = (self.keys, self.values) if self.is_initialized else None, True
        self.device, self.dtype = keys.device, keys.dtype
        self.all_keys = keys.new_empty((*keys.shape[:2], room, keys.shape[-1]))
        self.all_values = values.new_empty((*values.shape[:2], room, values.shape[-1]))
        if own is not None:
            self.all_keys[:, :, :at], self.all_values[:, :, :at] = own

    def _show(self, end: int) -> None:
        self.keys, self.values = self.all_keys[:, :, :end], self.all_values[:, :, :end]

    def add(self, count: int) -> None:
        """Add further answers; what is before their start is never read."""
        end = self.keys.shape[-2]
        self.all_keys, self.all_values = (
            torch.cat([kept, kept.new_zeros(count, *kept.shape[1:])]) for kept in (self.all_keys, self.all_values)
        )
        self._show(end)

    def forget(self, tokens: int) -> None:
        """Drop this many tokens from the front, which belong to no answer."""
        end = self.keys.shape[-2] - tokens
        self.all_keys, self.all_values = self.all_keys[:, :, tokens:], self.all_values[:, :, tokens:]
        self._show(end)

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all answers but these."""
        end = self.keys.shape[-2]
        self.all_keys, self.all_values = self.all_keys[rows], self.all_values[rows]
        self._show(end)


def own_tokens(layers: int) -> Cache:
    """A cache for the tokens of a group's answers, without their prompts."""
    return Cache(layers=[Room() for _ in range(layers)])


def keys_and_values(cache: Any, row: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
    """Keys and values of one row of a cache, by layer; None if the cache holds anything else."""
    if any(type(layer) is not DynamicLayer for layer in getattr(cache, "layers", [None])):
        return None
    return [(layer.keys[row], layer.values[row]) for layer in cache.layers]


def _attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """Attention of one token; `query`: (answers, heads, 1, head size), `key` and `value`: the answers' own tokens.

    Returns:
        Shape (answers, 1, heads, head size), as in transformers.
    """
    given = [name for name in ("softcap", "s_aux", "position_bias", "sliding_window") if more.get(name) is not None]
    if given or attention_mask is not None or query.shape[2] != 1 or _group is None:
        raise NotSharedError(f"attention with {', '.join(given) or 'a mask'}")
    answers, heads, _, width = query.shape
    groups = key.shape[1]
    scaled = (query * (width**-0.5 if scaling is None else scaling)).view(answers, groups, heads // groups, width)
    own = scaled @ key.transpose(-1, -2)
    if _group.starts is not None:
        before = torch.arange(key.shape[2], device=key.device) < _group.starts[:, None]
        own = own.masked_fill(before[:, None, None, :], -torch.inf)
    found, at = [], 0
    for prompt, count in zip(_group.prompts, _group.counts, strict=True):
        if count:
            mine = slice(at, at + count)
            found.append(_to_both(scaled[mine], own[mine], value[mine], *prompt[module.layer_idx]))
            at += count
    return torch.cat(found).reshape(answers, 1, heads, -1), None


def _to_both(query: Any, own: Any, own_values: Any, keys: Any, values: Any) -> Any:
    """Attention of one prompt's answers to it and to their own tokens; `query`: (answers, kv heads, queries, size)."""
    answers, groups, heads, width = query.shape
    together = query.transpose(0, 1).reshape(groups, answers * heads, width)
    scores = (together @ keys.transpose(-1, -2)).view(groups, answers, heads, -1).transpose(0, 1)
    weights = torch.cat([scores, own], -1).softmax(-1, dtype=torch.float32).to(query.dtype)
    to_prompt, to_own = weights.split([scores.shape[-1], own.shape[-1]], -1)
    read = to_prompt.transpose(0, 1).reshape(groups, answers * heads, -1) @ values
    return read.view(groups, answers, heads, -1).transpose(0, 1) + to_own @ own_values


AttentionInterface.register(NAME, _attention)


def same(one: Any, other: Any) -> bool:
    """Whether two rows of logits are equal up to rounding."""
    apart = (one.float().log_softmax(-1) - other.float().log_softmax(-1)).abs()
    likely = other.float().softmax(-1)
    return bool((apart * likely).sum(-1).max() < (1e-3 if one.dtype == torch.float32 else 5e-2))
