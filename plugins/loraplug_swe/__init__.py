"""Bug fixing, from data to evaluation: sources `swe`, `swe-synth`, `swe-bugs`, `swe-history`; `eval` and `improve`.

| subpackage | contents |
|---|---|
| `tasks` | SWE-SYNTH tasks and SWE-bench rows, from buckets, files and the hub |
| `repositories` | git: cached clones, objects, trees |
| `patches` | unified diffs: parsing, repair, reversal, verification that they apply |
| `conversations` | rows of `swe` and `swe-synth` |
| `mutation` | bugs injected into code and verified by its tests: rows of `swe-bugs` |
| `history` | real bugs from a repository's commits: rows of `swe-history` |
| `sandbox` | isolation of the code under test |
| `edits` | the formats in which a model writes its answer |
| `evaluation` | `loraplug eval` |
| `improve` | `loraplug improve` |
"""

from collections.abc import Sequence

import click

from loraplug import DatasetSource, Diagnostic, hookimpl
from loraplug_swe.conversations.swe import SweSource
from loraplug_swe.conversations.synth import SweSynthSource
from loraplug_swe.evaluation.command import evaluate
from loraplug_swe.history.source import SweHistorySource
from loraplug_swe.improve.command import improve
from loraplug_swe.mutation.source import SweBugsSource
from loraplug_swe.sandbox.diagnosis import sandbox_strength


@hookimpl
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:
    """The four sources."""
    return [SweSynthSource, SweSource, SweBugsSource, SweHistorySource]


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """`eval` and `improve`."""
    return [evaluate, improve]


@hookimpl
def loraplug_diagnostics() -> Sequence[Diagnostic]:
    """How well this machine can isolate the code under test."""
    return [sandbox_strength]
