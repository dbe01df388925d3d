# ruff: noqa: D102 - a method of `ProvenanceStr` does what the method of `str` with its name does
"""Text that remembers where each of its characters came from while a template cuts, strips and joins it.

`ProvenanceStr` is a `str`, so a template cannot tell: comparisons, tests and look-ups behave as ever. What a template
derives from it carries runs of (owner, length). Text whose origin cannot be followed is owned by UNKNOWN, never by
TEMPLATE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any, ClassVar, SupportsIndex

TEMPLATE = -1  # written by the template itself
UNKNOWN = -2  # from a row, but not clear from where in it
TOOLS = -3  # from the row's tool schemas
OPEN, CLOSE = -4, -5  # empty runs: {% generation %} begins, ends


class Thought(int):
    """The owner of reasoning in a message; equal to the owner of the message's other text."""


Runs = tuple[tuple[int, int], ...]


class ProvenanceStr(str):
    """A string with `runs`: pairs of owner and length in characters that add up to its own length."""

    __slots__ = ("runs",)
    runs: Runs
    _opaque: ClassVar[bool] = False

    def __new__(cls, text: str, runs: Runs) -> ProvenanceStr:
        made = str.__new__(cls, text)
        made.runs = runs
        return made

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> ProvenanceStr:
        if not isinstance(other, str):
            return NotImplemented
        runs = other.runs if isinstance(other, ProvenanceStr) else ((TEMPLATE, len(other)),)
        return ProvenanceStr(str.__add__(self, other), self.runs + runs)

    def __radd__(self, other: str) -> ProvenanceStr:
        if not isinstance(other, str):
            return NotImplemented
        runs = other.runs if isinstance(other, ProvenanceStr) else ((TEMPLATE, len(other)),)
        return ProvenanceStr(str.__add__(other, self), runs + self.runs)

    def __mul__(self, times: SupportsIndex) -> ProvenanceStr:
        return ProvenanceStr(str.__mul__(self, times), self.runs * max(int(times), 0))

    __rmul__ = __mul__

    def __getitem__(self, key: SupportsIndex | slice) -> ProvenanceStr:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._cut(start, max(start, stop))
            return concat(self._cut(at, at + 1) for at in range(start, stop, step))
        str.__getitem__(self, key)  # raises what a string raises
        at = key.__index__() % len(self)
        return self._cut(at, at + 1)

    def __iter__(self) -> Iterator[ProvenanceStr]:
        return (self._cut(at, at + 1) for at in range(len(self)))

    def __mod__(self, values: Any) -> ProvenanceStr:
        made: ProvenanceStr = derived(str.__mod__(self, values), self, values)
        return made

    def _cut(self, start: int, stop: int) -> ProvenanceStr:
        text = str.__getitem__(self, slice(start, stop))
        if len(text) == len(self):
            return self
        if len(self.runs) == 1:
            return ProvenanceStr(text, ((self.runs[0][0], len(text)),))
        kept, at = [], 0
        for owner, length in self.runs:
            size = min(at + length, stop) - max(at, start)
            if size > 0:
                kept.append((owner, size))
            at += length
        return ProvenanceStr(text, tuple(kept))

    def strip(self, chars: str | None = None) -> ProvenanceStr:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None) -> ProvenanceStr:
        return self._cut(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None) -> ProvenanceStr:
        return self._cut(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str) -> ProvenanceStr:
        return self._cut(len(self) - len(str.removeprefix(self, prefix)), len(self))

    def removesuffix(self, suffix: str) -> ProvenanceStr:
        return self._cut(0, len(str.removesuffix(self, suffix)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        return self._located(str.split(self, sep, maxsplit))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        parts = str.rsplit(self, sep, maxsplit)
        if sep is None:
            return self._located(parts)
        cuts, at = [], 0
        for part in parts:
            cuts.append(self._cut(at, at + len(part)))
            at += len(part) + len(sep)
        return cuts

    def splitlines(self, keepends: bool = False) -> list[Any]:
        cuts, at = [], 0
        for line, whole in zip(str.splitlines(self, keepends), str.splitlines(self, True), strict=True):
            cuts.append(self._cut(at, at + len(line)))
            at += len(whole)
        return cuts

    def partition(self, sep: str) -> tuple[Any, Any, Any]:
        at = str.find(self, sep)
        return self._parted(at, len(sep)) if at >= 0 else (self, self._cut(0, 0), self._cut(0, 0))

    def rpartition(self, sep: str) -> tuple[Any, Any, Any]:
        at = str.rfind(self, sep)
        return self._parted(at, len(sep)) if at >= 0 else (self._cut(0, 0), self._cut(0, 0), self)

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> ProvenanceStr:
        if old not in self:
            return self
        if not old:
            spread: ProvenanceStr = derived(str.replace(self, old, new, count), self, new)
            return spread
        made, at, left = [], 0, int(count)
        while left and (found := str.find(self, old, at)) >= 0:
            made.append(self._cut(at, found))
            made.append(new if isinstance(new, ProvenanceStr) else derived(new, self._cut(found, found + len(old))))
            at, left = found + len(old), left - 1
        return concat([*made, self._cut(at, len(self))])

    def _located(self, parts: list[str]) -> list[Any]:
        cuts, at = [], 0
        for part in parts:
            at = str.index(self, part, at)
            cuts.append(self._cut(at, at + len(part)))
            at += len(part)
        return cuts

    def _parted(self, at: int, size: int) -> tuple[ProvenanceStr, ProvenanceStr, ProvenanceStr]:
        return self._cut(0, at), self._cut(at, at + size), self._cut(at + size, len(self))

    def join(self, parts: Iterable[Any]) -> ProvenanceStr:
        return joined(self, parts)


def _mapped(name: str) -> Callable[..., ProvenanceStr]:
    plain = getattr(str, name)

    def method(self: ProvenanceStr, *args: Any) -> ProvenanceStr:
        made = plain(self, *args)
        return ProvenanceStr(made, self.runs) if len(made) == len(self) else derived(made, self, args)

    return method


for _name in ("upper", "lower", "capitalize", "title", "swapcase", "casefold", "translate"):
    setattr(ProvenanceStr, _name, _mapped(_name))


def _padded(name: str) -> Callable[..., ProvenanceStr]:
    plain = getattr(str, name)
    return lambda self, *args: derived(plain(self, *args), self, args)


for _name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
    setattr(ProvenanceStr, _name, _padded(_name))


class InspectedError(Exception):
    """A template looked into sealed text."""


class TrackedDict(dict[Any, Any]):
    """A mapping whose texts belong to one owner; printing it gives tracked text."""

    __slots__ = ("_owner",)
    _owner: int

    def __repr__(self) -> str:
        return str(derived(dict.__repr__(self), self))

    __str__ = __repr__


class TrackedList(list[Any]):
    """A list whose texts belong to one owner; printing it gives tracked text."""

    __slots__ = ("_owner",)
    _owner: int

    def __repr__(self) -> str:
        return str(derived(list.__repr__(self), self))

    __str__ = __repr__


class PrintedPartsError(TypeError):
    """A template printed a list of parts as if it were text."""


class Parts(TrackedList):
    """A message's content as a list of parts, which a template has to take apart."""

    __slots__ = ()

    def __repr__(self) -> str:
        raise PrintedPartsError("the content is a list of parts, and the template would print it as one")

    __str__ = __repr__


def track(value: Any, owner: int) -> Any:
    """A copy of plain JSON-like data in which every text, keys included, belongs to `owner`."""
    if isinstance(value, str):
        return ProvenanceStr(value, ((owner, len(value)),))
    if isinstance(value, Mapping):
        table = TrackedDict({track(key, owner): track(item, owner) for key, item in value.items()})
        table._owner = owner
        return table
    if isinstance(value, list | tuple):
        items = TrackedList(track(item, owner) for item in value)
        items._owner = owner
        return items
    return value


def owners(value: Any) -> set[int]:
    """Whose text is in `value`, which may be nested; the template's own does not count."""
    if isinstance(value, ProvenanceStr):
        return {owner for owner, length in value.runs if length} - {TEMPLATE, OPEN, CLOSE}
    if isinstance(value, TrackedDict | TrackedList):
        return {value._owner}
    if isinstance(value, Mapping):
        return set().union(*map(owners, value.keys()), *map(owners, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(owners, value))
    return set()


def derived(made: str, *sources: Any) -> Any:
    """`made` as text made out of `sources` in a way that cannot be followed character by character."""
    found = owners(list(sources))
    if not found:
        return made
    return ProvenanceStr(made, ((found.pop() if len(found) == 1 else UNKNOWN, len(made)),))


def is_opaque(value: Any) -> bool:
    """Whether this is text that must not be looked at (`loraplug_chat.opaque`)."""
    return isinstance(value, ProvenanceStr) and value._opaque


def concat(parts: Iterable[Any]) -> ProvenanceStr:
    """Join texts; takes the place of `"".join` in a template's code."""
    parts = list(parts)
    runs: list[tuple[int, int]] = []
    for part in parts:
        if isinstance(part, ProvenanceStr):
            runs.extend(part.runs)
        else:
            runs.append((TEMPLATE, len(part)))
    kind = next((type(part) for part in parts if is_opaque(part)), ProvenanceStr)
    return kind("".join(parts), tuple(runs))


def joined(separator: str, parts: Iterable[Any]) -> ProvenanceStr:
    """`separator.join(parts)`."""
    made: list[str] = []
    for part in parts:
        made += [separator, part]
    return concat(made[1:])


def following(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a template filter: text it makes out of tracked text is owned by what it was made of."""

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if any(map(is_opaque, (*args, *kwargs.values()))):
            raise InspectedError
        made = function(*args, **kwargs)
        return derived(made, args, kwargs) if type(made) is str else made

    return wrapper
