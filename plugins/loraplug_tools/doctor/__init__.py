"""`loraplug doctor`: can this machine do it, and what would make it better? And shell completion."""

from collections.abc import Sequence

import click

from loraplug import Diagnostic, hookimpl
from loraplug_tools.doctor.command import completion, doctor
from loraplug_tools.doctor.hardware import disk, gpu, memory, processor
from loraplug_tools.doctor.software import dependencies, python, tools


@hookimpl
def loraplug_commands() -> Sequence[click.Command]:
    """Two commands."""
    return [doctor, completion]


@hookimpl
def loraplug_diagnostics() -> Sequence[Diagnostic]:
    """What concerns every run; what concerns one plugin is that plugin's to bring."""
    return [python, processor, memory, disk, gpu, tools, dependencies]
