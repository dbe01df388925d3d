"""Bugs of one's own repository, proved by its tests: the sources `swe-bugs` and `swe-history`; and `eval`."""

from collections.abc import Sequence

import click

from loraplug import DatasetSource, Diagnostic, hookimpl
from loraplug_bugs.diagnosis import sandbox_strength
from loraplug_bugs.evals.command import evaluate
from loraplug_bugs.history.source import SweHistorySource
from loraplug_bugs.source import SweBugsSource


@hookimpl
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:
    """Both sources."""
    return [SweBugsSource, SweHistorySource]


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """`eval`."""
    return [evaluate]


@hookimpl
def loraplug_diagnostics() -> Sequence[Diagnostic]:
    """How well this machine can shut other people's code in."""
    return [sandbox_strength]
