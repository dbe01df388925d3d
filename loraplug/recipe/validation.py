"""Which source reads the rows that `[validation] path` names: the one of the training rows where it can."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loraplug.config.options import options
from loraplug.config.structure import structure, unstructure
from loraplug.errors import InputError
from loraplug.plugin.components import DatasetSource

if TYPE_CHECKING:
    from loraplug.plugin.registry import Registry
    from loraplug.recipe.recipe import Validation

OWN = ("rename", "field", "split", "delimiter")
"""Options of sources that `[validation]` may say otherwise than `[dataset]`."""


def validation_source(training: DatasetSource, wanted: Validation, registry: Registry) -> DatasetSource:
    """The source of the validation rows: with the options of `training` where it is of its class, else with its rename.

    Raises:
        InputError: no source reads such files, it has no option that `[validation]` says, or the rows would be the
            training rows.
    """
    paths = wanted.path if isinstance(wanted.path, tuple) else (wanted.path,)
    cls = _reader(str(paths[0]), training, registry)
    names = {option.name for option in options(cls)}
    given = {name: value for name in OWN if (value := getattr(wanted, name)) is not None}
    for name in given.keys() - names:
        todo = f"its options: {', '.join(sorted(names.intersection(OWN))) or 'none of these'}"
        what = f"the source {cls.name}, which reads {paths[0]}, has no such option"
        raise InputError(what, where=f"validation.{name}", todo=todo)
    of_training = {name: value for name, value in unstructure(training, held=True).items() if name != "limit"}
    shared = of_training.keys() if cls is type(training) else names & {"rename"}
    table = {name: value for name, value in of_training.items() if name in shared} | given
    table["path"] = [str(path) for path in paths] if isinstance(wanted.path, tuple) else str(wanted.path)
    if cls is type(training) and table == of_training:
        what = "names the training rows themselves"
        raise InputError(what, where="validation.path", todo="hold some out with fraction or rows instead")
    made, problems = structure(cls, table, "validation")
    if problems:
        raise InputError(problems[0].message, where=problems[0].path)
    source: DatasetSource = made
    return source


def _reader(path: str, training: DatasetSource, registry: Registry) -> type[DatasetSource]:
    if type(training).reads(path=path):
        return type(training)
    found = [entry for entry in registry.of_kind("dataset") if _source(entry.cls).reads(path=path)]
    if len(found) == 1:
        return _source(found[0].cls)
    if found:
        names = ", ".join(entry.full_name for entry in found)
        raise InputError(f"{path} is read by several sources: {names}", where="validation.path",
                         todo="disable all but one with [plugins] disable")  # fmt: skip
    if any(option.name == "path" for option in options(type(training))):  # its own errors say what it misses
        return type(training)
    there = Path(path).exists() or "*" in path
    what = "no dataset source reads such files" if there else "no such file or folder"
    raise InputError(f"{path}: {what}", where="validation.path", todo="give a .jsonl, .json, .csv or .parquet file")


def _source(cls: type) -> type[DatasetSource]:
    assert issubclass(cls, DatasetSource)  # noqa: S101 - of this kind, as the registry says
    return cls
