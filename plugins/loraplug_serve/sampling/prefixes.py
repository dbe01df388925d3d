"""A prefix cache: a conversation that continues is not computed again from its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field

State = list[tuple[Any, Any]]


@define
class Prefixes:
    """Token ids that a model has computed, with their keys and values; the least recently used are dropped first.

    Attributes:
        room: maximum size of the keys and values, in bytes.
    """

    room: int = 1 << 29
    _kept: list[tuple[list[int], State]] = field(factory=list, init=False)

    def keep(self, ids: Sequence[int], state: State) -> None:
        """Keep these; entries that are a prefix of them are dropped.

        Args:
            state: keys and values by layer, each of shape (heads of keys, len(ids), width).
        """
        ids = list(ids)
        kept = [(known, of) for known, of in self._kept if known != ids[: len(known)]]
        self._kept = [*kept, (ids, state)]
        while self._kept and sum(_bytes(of) for _, of in self._kept) > self.room:
            del self._kept[0]

    def cache(self, ids: Sequence[int]) -> tuple[int, Any]:
        """How many leading ids need not be computed, never all, and a cache of them for transformers; or 0, None."""
        best, state, place = 0, None, -1
        for at, (known, of) in enumerate(self._kept):
            if (found := _alike(known, ids)) > best:
                best, state, place = found, of, at
        best = min(best, len(ids) - 1)
        if state is None or best < 1:
            return 0, None
        from transformers import DynamicCache

        self._kept.append(self._kept.pop(place))
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(state):
            cache.update(keys[None, :, :best], values[None, :, :best], layer)
        return best, cache


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix of two lists of ids."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _bytes(state: State) -> int:
    return sum(int(one.nbytes) for pair in state for one in pair)
