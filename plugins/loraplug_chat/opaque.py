# ruff: noqa: D102 - the methods do what those of `str` do
"""Text that a template may carry but not look into, to learn what it writes whatever the text."""

from __future__ import annotations

from typing import Any, ClassVar

from loraplug_chat.provenance import InspectedError, ProvenanceStr


class OpaqueStr(ProvenanceStr):
    """Tracked text that can be joined, printed and stripped; looking at it in any other way raises `InspectedError`.

    Owners count in steps of a million by how the text was stripped: not, both sides, left, right.
    """

    __slots__ = ()
    _opaque: ClassVar[bool] = True

    def __add__(self, other: str) -> OpaqueStr:
        made = ProvenanceStr.__add__(self, other)
        return made if made is NotImplemented else OpaqueStr(made, made.runs)

    def __radd__(self, other: str) -> OpaqueStr:
        made = ProvenanceStr.__radd__(self, other)
        return made if made is NotImplemented else OpaqueStr(made, made.runs)

    def _stripped(self, way: int, chars: str | None) -> OpaqueStr:
        (owner, length), *more = self.runs
        done = owner // 1_000_000 - 1
        if chars is not None or more or done not in (0, way):
            raise InspectedError
        return OpaqueStr(str.__str__(self), ((owner % 1_000_000 + 1_000_000 * (way + 1), length),))

    def strip(self, chars: str | None = None) -> OpaqueStr:
        return self._stripped(1, chars)

    def lstrip(self, chars: str | None = None) -> OpaqueStr:
        return self._stripped(2, chars)

    def rstrip(self, chars: str | None = None) -> OpaqueStr:
        return self._stripped(3, chars)


def _sealed(*_: Any, **__: Any) -> Any:
    raise InspectedError


_OPEN = {
    "__new__",
    "__init__",
    "__class__",
    "__getattribute__",
    "__setattr__",
    "__doc__",
    "__str__",
    "__init_subclass__",
}
for _name in {*dir(str), "__bool__", "__mod__", "__iter__"} - _OPEN - set(vars(OpaqueStr)) - {"__subclasshook__"}:
    setattr(OpaqueStr, _name, _sealed)
