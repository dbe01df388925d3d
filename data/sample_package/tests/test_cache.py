"""Tests for tidyshelf.cache."""

import pytest

from tidyshelf.cache import LruCache, TtlCache


class Clock:
    """A clock that tests set by hand."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_lru_returns_what_was_put() -> None:
    cache = LruCache(2)
    cache.put("a", 1)
    assert cache.get("a") == 1
    assert cache.get("b", default=0) == 0


def test_lru_drops_the_oldest_entry() -> None:
    cache = LruCache(2)
    for key in "abc":
        cache.put(key, key)
    assert len(cache) == 2
    assert cache.get("a") is None
    assert cache.get("c") == "c"


def test_lru_keeps_entries_in_use() -> None:
    cache = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.get("a")
    cache.put("c", 3)
    assert cache.get("a") == 1
    assert cache.get("b") is None


def test_lru_put_again_makes_an_entry_new() -> None:
    cache = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.put("a", 3)
    cache.put("c", 4)
    assert cache.get("a") == 3


def test_lru_hit_rate_counts_lookups() -> None:
    cache = LruCache(2)
    cache.put("a", 1)
    for key in ("a", "a", "a", "b"):
        cache.get(key)
    assert cache.hit_rate() == pytest.approx(0.75)


def test_lru_hit_rate_of_a_new_cache() -> None:
    assert LruCache(2).hit_rate() == 0.0


def test_lru_clear_forgets_everything() -> None:
    cache = LruCache(2)
    cache.put("a", 1)
    cache.get("a")
    cache.clear()
    assert len(cache) == 0
    assert cache.hits == 0


def test_ttl_returns_entries_in_time() -> None:
    clock = Clock()
    cache = TtlCache(10, clock)
    cache.put("a", 1)
    clock.now = 9.0
    assert cache.get("a") == 1
    assert cache.get("b", default=0) == 0


def test_ttl_ends_after_its_seconds() -> None:
    clock = Clock()
    cache = TtlCache(10, clock)
    cache.put("a", 1)
    clock.now = 10.0
    assert cache.get("a") is None


def test_ttl_purge_counts_what_it_removes() -> None:
    clock = Clock()
    cache = TtlCache(10, clock)
    cache.put("a", 1)
    clock.now = 6.0
    cache.put("b", 2)
    clock.now = 12.0
    assert cache.purge() == 1
    assert cache.get("b") == 2
    assert cache.purge() == 0
