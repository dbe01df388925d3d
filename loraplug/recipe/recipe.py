"""The `Recipe`: its tables as objects, each stage a component; made by `building`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from attrs import evolve, field, frozen, validators

from loraplug.config.options import Doc
from loraplug.config.tables import Table
from loraplug.data.mixture import Mix
from loraplug.errors import InputError
from loraplug.plugin.components import (
    TABLES,
    Component,
    DatasetSource,
    Exporter,
    Formatter,
    ModelLoader,
    Quantizer,
    Trainer,
    Transform,
    held,
)
from loraplug.recipe.validation import OWN
from loraplug.workers.workers import Workers

_OPTIONAL = ("validation", "quantizer")
_SET_NAME = re.compile(r"(?=.*[A-Za-z_])[A-Za-z0-9_-]{1,64}")
_RUN_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


def _paths(_: Any, __: Any, value: Any) -> None:
    if value == ():
        raise ValueError("expected a path, or a list of paths")


@frozen
class Validation:
    """Rows held out of training. Give one of `fraction`, `rows` and `path`."""

    fraction: Annotated[float | None, Doc("share of the rows to hold out, between 0 and 1")] = field(
        default=None, validator=validators.optional([validators.gt(0), validators.lt(1)])
    )
    rows: Annotated[int | None, Doc("how many rows to hold out, approximately: groups are not divided")] = field(
        default=None, validator=validators.optional(validators.ge(1))
    )
    path: Annotated[
        str | Path | tuple[str | Path, ...] | None,
        Doc("a file with the rows, a list of files, a pattern, a folder or an address; read like [dataset]"),
    ] = field(default=None, validator=_paths)
    rename: Annotated[
        dict[str, Any] | None, Doc("columns to rename in the rows of `path`; default: as in [dataset]")
    ] = None
    field: Annotated[str | None, Doc("the `field` of the source that reads `path`; default: as in [dataset]")] = None
    split: Annotated[str | None, Doc("the `split` of the source that reads `path`; default: as in [dataset]")] = None
    delimiter: Annotated[
        str | None, Doc("the `delimiter` of the source that reads `path`; default: as in [dataset]")
    ] = None
    group_by: Annotated[
        str,
        Doc(
            "which rows are kept together: auto (repository if several, else task, else row), repo, task, row, or a "
            "column"
        ),
    ] = "auto"

    def __attrs_post_init__(self) -> None:
        given = [name for name in ("fraction", "rows", "path") if getattr(self, name) is not None]
        own = [name for name in OWN if getattr(self, name) is not None]
        if own and self.path is None:
            raise InputError(f"{own[0]} applies to path, which is not set")
        if len(given) != 1:
            raise InputError(f"needs exactly one of fraction, rows and path; has {' and '.join(given) or 'none'}")


@frozen
class Plugins:
    """Plugins that this recipe disables."""

    disable: Annotated[tuple[str, ...], Doc("plugins to disable, by their names in `loraplug plugins list`")] = ()


@frozen
class DataSet:
    """One of several `[[dataset]]`, at `place` of the recipe; one with the share 0 is watched and not trained on."""

    name: str
    place: str
    source: DatasetSource
    formatter: Formatter
    transforms: tuple[Transform, ...] = ()
    share: float | None = None

    @property
    def watched(self) -> bool:
        """Whether all its rows are validation rows."""
        return self.share == 0


@frozen
class Recipe:
    """A whole recipe, every stage a component. `folder` is where relative paths in `file` start.

    `sets`: where the recipe has `[[dataset]]`, every one of them, and `mix` says how they become one; `dataset` and
    `transforms` are then those of the first. Empty where it has one `[dataset]`.

    `tables`: what commands read (see `loraplug.RecipeCommand`), by the name of the table; no stage sees it.
    `workers`: where parallel work is done. As it changes nothing that is made, a run may go on with others, and a lock
    file does not have it.

    `unfilled`: what the file says at keys that variables were put into, such as `exporter.0.repo` to `${OWNER}/model`.
    """

    file: Path
    folder: Path
    run_name: str
    dataset: DatasetSource
    formatter: Formatter
    model: ModelLoader
    trainer: Trainer
    exporter: tuple[Exporter, ...]
    quantizer: Quantizer | None = None
    validation: Validation | None = None
    seed: int = 42
    lock: Table | None = None
    disabled: tuple[str, ...] = ()
    transforms: tuple[Transform, ...] = ()
    sets: tuple[DataSet, ...] = ()
    mix: Mix = field(factory=Mix)
    tables: Mapping[str, Any] = field(factory=dict)
    unfilled: Mapping[str, str] = field(factory=dict)
    workers: Workers = field(factory=Workers)

    def parts(self) -> dict[str, Any]:
        """What stands in each table, in the order of the stages; None where a table is left out."""
        names = ("dataset", "validation", "formatter", "model", "quantizer", "trainer", "exporter")
        return {name: getattr(self, name) for name in names}

    def components(self) -> Iterator[Component]:
        """Every component, in the order of the stages, each with those inside it."""
        return (part for part, _ in self.components_seen())

    def components_seen(self) -> Iterator[tuple[Component, Recipe]]:
        """Every component with the recipe as it sees it: of several data sets, what is of one sees that one alone."""
        stages = [getattr(self, kind) for kind in TABLES if kind != "exporter"]
        parts = [(part, self) for part in (stages[0], *self.transforms, *stages[1:], *self.exporter)]
        if self.sets:
            views = [(one, self.only(one.name)) for one in self.sets]
            of_sets = [(part, view) for one, view in views for part in (one.source, *one.transforms)]
            own = [(one.formatter, view) for one, view in views if one.formatter != self.formatter]
            parts = [*of_sets, *own, *((part, self) for part in (*stages[1:], *self.exporter))]
        for part, view in parts:
            if part is not None:
                yield part, view
                yield from ((inner, view) for inner in held(part))

    def only(self, name: str) -> Recipe:
        """The recipe as if the set of this name were its only one."""
        one = next(one for one in self.sets if one.name == name)
        validation = None if one.watched else self.validation
        return evolve(self, dataset=one.source, transforms=one.transforms, formatter=one.formatter,
                      validation=validation, sets=(), mix=Mix())  # fmt: skip

    @property
    def validates(self) -> bool:
        """Whether there will be validation rows."""
        return self.validation is not None or any(one.watched for one in self.sets)
