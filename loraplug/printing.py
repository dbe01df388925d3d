"""Printing to the terminal: control sequences in texts from rows, models or files are escaped."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

from attrs import frozen

# C0 but tab and line feed, DEL, C1; line and paragraph separators; what reorders text; halves of surrogate pairs
_STEERING = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""`text` with control characters written out as `\u001b`: as JSON and TOML write them in their strings.

    Tabs and line feeds stay; the carriage return before a line feed goes.
    """
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\r\n", "\n"))


def echo(text: object = "", *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print text of whatever origin, made `printable`; commands of plugins use it in place of `print` and `click.echo`.

    Args:
        text: what to print.
        err: on stderr.
        nl: with a line feed behind it.
        style: as `click.style` has it: `fg="green"`, `bold=True` …
    """
    import click

    shown = printable(str(text))
    click.echo(click.style(shown, **style) if style else shown, err=err, nl=nl)


def guard_libraries() -> None:
    """Escape control characters in what libraries log and warn, for the rest of the process."""
    import logging

    class Record(logging.LogRecord):
        def getMessage(self) -> str:  # noqa: N802 - the name is logging's
            return printable(super().getMessage())

    logging.setLogRecordFactory(Record)
    if not isinstance(warnings.formatwarning, _Guarded):
        warnings.formatwarning = _Guarded(warnings.formatwarning)


@frozen
class _Guarded:
    written: Callable[..., str]

    def __call__(self, *said: Any, **more: Any) -> str:
        return printable(self.written(*said, **more))
