"""One decoding step of a group of answers: to several prompts together, or to a single prompt."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from attrs import define, field

from loraplug_serve.sampling.compat import with_cache
from loraplug_serve.sampling.shared import Group, NotSharedError, at_work, keys_and_values, own_tokens, same


@define
class Together:
    """Answers to several prompts; all answers to a prompt read the same keys and values of it."""

    model: Any
    group: Group
    positions: torch.Tensor
    cache: Any
    caches: Sequence[Any]

    @classmethod
    def of(cls, model: Any, caches: Sequence[Any], counts: Sequence[int], lengths: Sequence[int]) -> Together | None:
        """None if the model uses another kind of cache.

        Args:
            caches: of the prompts, each computed alone.
            counts: answers to each.
            lengths: tokens of each.
        """
        kept = [keys_and_values(cache) for cache in caches]
        if any(one is None for one in kept):
            return None
        positions = torch.tensor(
            [[length] for length, count in zip(lengths, counts, strict=True) for _ in range(count)], device=model.device
        )
        group = Group([one for one in kept if one is not None], list(counts))
        return cls(model, group, positions, own_tokens(len(kept[0] or ())), caches)

    def proved(self, logits: Sequence[Any]) -> bool:
        """Whether one step gives the same logits as the model gives for each prompt alone; changes nothing.

        Args:
            logits: after each prompt, shape (1, vocabulary); the most probable token is used for the step.
        """
        tokens = [one.argmax(-1, keepdim=True) for one in logits]
        starts = torch.tensor([[one.layers[0].get_seq_length()] for one in self.caches], device=self.model.device)
        alone = []
        for cache, token in zip(self.caches, tokens, strict=True):
            out = self.model(input_ids=token, **with_cache(self.model, deepcopy(cache)))
            alone.append(out.logits[:, -1])
        try:
            group = Group(self.group.prompts, [1] * len(tokens))
            found = _step(self.model, group, torch.cat(tokens), starts, own_tokens(len(self.cache.layers)))
        except (NotSharedError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
            return False
        return same(found, torch.cat(alone))

    def next(self, tokens: Any) -> Any:
        """Logits after the next token of each answer, shape (answers, vocabulary)."""
        found = _step(self.model, self.group, tokens[:, None], self.positions, self.cache)
        self.positions = self.positions + 1
        return found

    def add(self, other: Together) -> None:
        """Append answers to further prompts, none of which has a token yet."""
        length = self.cache.get_seq_length()
        starts = self.group.starts
        if starts is None:
            starts = torch.zeros_like(self.positions[:, 0])
        begun = other.positions.new_full((len(other.positions),), length)
        self.group.starts = torch.cat([starts, begun])
        self.group.prompts += other.group.prompts
        self.group.counts += other.group.counts
        self.positions = torch.cat([self.positions, other.positions])
        for layer in self.cache.layers:
            if layer.is_initialized:
                layer.add(len(begun))

    def states(self, row: int) -> list[tuple[Any, Any]]:
        """Keys and values of one answer with its prompt, by layer, each of shape (kv heads, tokens, head size)."""
        ends = torch.tensor(self.group.counts).cumsum(0)
        prompt = self.group.prompts[int(torch.searchsorted(ends, row, right=True))]
        start = 0 if self.group.starts is None else int(self.group.starts[row])
        return [
            tuple(
                torch.cat([read, own[row, :, start:]], 1) if layer.is_initialized else read
                for read, own in zip(kept, (layer.keys, layer.values), strict=True)
            )
            for kept, layer in zip(prompt, self.cache.layers, strict=True)
        ]

    def keep(self, rows: Any) -> None:
        """Drop all answers but these."""
        prompt_of = torch.repeat_interleave(torch.arange(len(self.group.counts)), torch.tensor(self.group.counts))[
            rows.cpu()
        ]
        self.group.counts = torch.bincount(prompt_of, minlength=len(self.group.counts)).tolist()
        self.positions = self.positions[rows]
        for layer in self.cache.layers:
            if layer.is_initialized:
                layer.keep(rows)
        if self.group.starts is not None:
            self.group.starts = self.group.starts[rows]
        self._tidy()

    def _tidy(self) -> None:
        """Free prompts without answers left, and tokens generated before all remaining answers joined."""
        left = [at for at, count in enumerate(self.group.counts) if count]
        self.group.prompts = [self.group.prompts[at] for at in left]
        self.group.counts = [self.group.counts[at] for at in left]
        if self.group.starts is not None and len(self.group.starts) and (past := int(self.group.starts.min())):
            self.group.starts = self.group.starts - past
            for layer in self.cache.layers:
                if layer.is_initialized:
                    layer.forget(past)


def _step(model: Any, group: Group, tokens: Any, positions: Any, cache: Any) -> Any:
    with at_work(model, group):
        out = model(input_ids=tokens, position_ids=positions, **with_cache(model, cache))
    return out.logits[:, -1]


@define
class Alone:
    """Answers to one prompt, each with a copy of its cache; without a cache, all tokens are recomputed at each step."""

    model: Any
    cache: Any
    ids: list[int]
    count: int
    said: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        every = torch.zeros(self.count, dtype=torch.long, device=self.model.device)
        self.said = torch.tensor([self.ids], device=self.model.device)[every]
        if self.cache is not None:
            self.cache.reorder_cache(every)

    def next(self, tokens: Any) -> Any:
        """See `Together.next`."""
        given = tokens[:, None]
        self.said = torch.cat([self.said, given], 1)
        if self.cache is None:  # asked for all the same, as for the prompt: some models compute otherwise without
            return self.model(input_ids=self.said, use_cache=True, logits_to_keep=1).logits[:, -1]
        out = self.model(input_ids=given, **with_cache(self.model, self.cache))
        return out.logits[:, -1]

    def states(self, row: int) -> list[tuple[Any, Any]] | None:
        """See `Together.states`; None if the cache cannot be cut at any position."""
        found = None if self.cache is None else keys_and_values(self.cache, row)
        return found and [(keys.clone(), values.clone()) for keys, values in found]

    def keep(self, rows: Any) -> None:
        """See `Together.keep`."""
        self.said = self.said[rows]
        if self.cache is not None:
            self.cache.reorder_cache(rows)
