"""What `loraplug doctor` reports: findings about this machine and what is installed, brought by plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from attrs import frozen

from loraplug.context import Run


@frozen
class Finding:
    """One line of `loraplug doctor`.

    Attributes:
        subject: what was looked at, in a word or two ("memory", "sandbox").
        text: what was found, one line.
        severity: whether it is fine, costs something, or stops what needs it.
        todo: what the user can do about it; empty where there is nothing to do.
    """

    subject: str
    text: str
    severity: Literal["ok", "warning", "error"] = "ok"
    todo: str = ""


Diagnostic = Callable[[Run], Iterable[Finding]]
"""Called by `loraplug doctor` with a run that has folders and a cache but no recipe; must not import torch."""
