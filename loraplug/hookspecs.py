"""The hooks a plugin may implement. A plugin is a module named by an entry point in the group `loraplug`.

Every hook is called once, when the registry is built, with no arguments. The component hooks return *classes*; a class
is made into an object when a recipe names it, with the recipe's options as fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from loraplug.components import DatasetSource, Exporter, Formatter, ModelLoader, Quantizer, Trainer
    from loraplug.context import Event

hookspec = pluggy.HookspecMarker("loraplug")
hookimpl = pluggy.HookimplMarker("loraplug")


@hookspec
def loraplug_dataset_sources() -> Sequence[type[DatasetSource]]:  # type: ignore[empty-body]
    """Dataset sources, for `[dataset] use = "…"`."""


@hookspec
def loraplug_formatters() -> Sequence[type[Formatter]]:  # type: ignore[empty-body]
    """Formatters, for `[formatter] use = "…"`."""


@hookspec
def loraplug_model_loaders() -> Sequence[type[ModelLoader]]:  # type: ignore[empty-body]
    """Model loaders, for `[model] use = "…"`."""


@hookspec
def loraplug_quantizers() -> Sequence[type[Quantizer]]:  # type: ignore[empty-body]
    """Quantizers, for `[quantizer] use = "…"`."""


@hookspec
def loraplug_trainers() -> Sequence[type[Trainer]]:  # type: ignore[empty-body]
    """Trainers, for `[trainer] use = "…"`."""


@hookspec
def loraplug_exporters() -> Sequence[type[Exporter]]:  # type: ignore[empty-body]
    """Exporters, for `[[exporter]] use = "…"`."""


@hookspec
def loraplug_commands() -> Sequence[click.Command]:  # type: ignore[empty-body]
    """Extra subcommands of `loraplug`."""


@hookspec
def loraplug_events() -> Sequence[Callable[[Event], None]]:  # type: ignore[empty-body]
    """Observers, called with each `Event` of a run: stage start and end, step metrics, artefacts."""
