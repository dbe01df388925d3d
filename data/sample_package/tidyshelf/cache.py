"""Small caches: by use and by age."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic


class LruCache:
    """A cache that drops the entry not used for the longest time."""

    def __init__(self, size: int) -> None:
        """Make an empty cache for at most size entries."""
        self.size = size
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[str, object] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def get(self, key: str, default: object = None) -> object:
        """Return an entry and mark it as just used."""
        if key not in self._entries:
            self.misses += 1
            return default
        self.hits += 1
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: str, value: object) -> None:
        """Store an entry, dropping the oldest ones when full."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        while len(self._entries) > self.size:
            self._entries.popitem(last=False)

    def hit_rate(self) -> float:
        """Return the share of lookups that found something."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0

    def clear(self) -> None:
        """Forget all entries and counters."""
        self._entries.clear()
        self.hits = 0
        self.misses = 0


class TtlCache:
    """A cache whose entries are good for a number of seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        """Make an empty cache; tests may pass their own clock."""
        self.seconds = seconds
        self._clock = clock
        self._entries: dict[str, tuple[float, object]] = {}

    def put(self, key: str, value: object) -> None:
        """Store an entry with the time until which it is good."""
        self._entries[key] = (self._clock() + self.seconds, value)

    def get(self, key: str, default: object = None) -> object:
        """Return an entry that is still good, else the default."""
        if key not in self._entries:
            return default
        good_until, value = self._entries[key]
        return value if self._clock() < good_until else default

    def purge(self) -> int:
        """Remove entries that are too old and return how many there were."""
        now = self._clock()
        old = [key for key, (good_until, _) in self._entries.items() if good_until <= now]
        for key in old:
            del self._entries[key]
        return len(old)
