"""The hooks a plugin may implement. A plugin is a module named by an entry point in the group `loraplug`.

Every hook is called once, without arguments, when the registry is built. The component hooks return *classes*; a class
is instantiated when a recipe names it, with the recipe's options as fields.
"""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from loraplug.context import Event
    from loraplug.plugin.components import (
        Adapter,
        DatasetSource,
        Exporter,
        Formatter,
        ModelLoader,
        Optimizer,
        Quantizer,
        Scheduler,
        Trainer,
        Transform,
    )
    from loraplug.plugin.diagnostics import Diagnostic

hookspec = pluggy.HookspecMarker("loraplug")
hookimpl = pluggy.HookimplMarker("loraplug")
"""Marks the functions of a plugin that implement hooks."""


@hookspec
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:
    """Dataset sources, for `[dataset] use = "…"`."""


@hookspec
def loraplug_transforms() -> Sequence[type[Transform]]:
    """Transforms, for `[[dataset.transform]] use = "…"`."""


@hookspec
def loraplug_formatters() -> Sequence[type[Formatter]]:
    """Formatters, for `[formatter] use = "…"`."""


@hookspec
def loraplug_model_loaders() -> Sequence[type[ModelLoader]]:
    """Model loaders, for `[model] use = "…"`."""


@hookspec
def loraplug_quantizers() -> Sequence[type[Quantizer]]:
    """Quantizers, for `[quantizer] use = "…"`."""


@hookspec
def loraplug_adapters() -> Sequence[type[Adapter]]:
    """Adapters, for trainers that use one, such as `[trainer.adapter] use = "…"`."""


@hookspec
def loraplug_optimizers() -> Sequence[type[Optimizer]]:
    """Optimizers, for the tables of trainers that hold one, such as `[trainer.optimizer] use = "…"`."""


@hookspec
def loraplug_schedulers() -> Sequence[type[Scheduler]]:
    """Courses of the learning rate, for trainers that hold one, such as `[trainer.scheduler] use = "…"`."""


@hookspec
def loraplug_trainers() -> Sequence[type[Trainer]]:
    """Trainers, for `[trainer] use = "…"`."""


@hookspec
def loraplug_exporters() -> Sequence[type[Exporter]]:
    """Exporters, for `[[exporter]] use = "…"`."""


@hookspec
def loraplug_commands() -> Sequence[click.Command]:
    """Subcommands of `loraplug`; their context object is a `loraplug.App`."""


@hookspec
def loraplug_events() -> Sequence[Callable[[Event], None]]:
    """Observers, called with each `Event` of a run: stage start and end, step metrics, artefacts."""


@hookspec
def loraplug_diagnostics() -> Sequence[Diagnostic]:
    """Checks of the machine for `loraplug doctor`: each is called with a `Run` and yields `Finding`s."""
