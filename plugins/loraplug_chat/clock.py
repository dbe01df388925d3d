"""The date that chat templates are given: that of the run's first start, also when the run is resumed later."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime

_begun: ContextVar[datetime | None] = ContextVar("begun", default=None)
_ASKED = re.compile(r"strftime_now\s*\(\s*(?:\"([^\"]*)\"|'([^']*)'|(?!\s*[\"']))")


@contextmanager
def stopped_at(date: datetime | None) -> Iterator[None]:
    """Context manager: chat templates are given this date; None: the current time."""
    token = _begun.set(date)
    try:
        yield
    finally:
        _begun.reset(token)


def strftime_now(format: str) -> str:  # noqa: A002 - as transformers names it
    """What a template calls by this name; transformers' own gives the time of the call."""
    return (_begun.get() or datetime.now()).strftime(format)


def told(template: str) -> list[str]:
    """The date in the formats that a template asks for, or in full if the formats are computed."""
    formats = {double or single or "%Y-%m-%dT%H:%M:%S" for double, single in _ASKED.findall(template)}
    return [strftime_now(one) for one in sorted(formats)]
