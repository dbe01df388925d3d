"""What all rounds stand on, made once: rows of the first training, bugs to ask about, bugs held out."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from loraplug import InputError, Pipeline, atomic_output, iter_rows, wrap_os_errors
from loraplug_swe.evaluation.reading import Task, read_tasks
from loraplug_swe.improve.folder import Folder, read_json, read_rows, write_json, write_rows
from loraplug_swe.improve.options import Improve
from loraplug_swe.improve.recipes import Recipes

BUGS = "bugs"


@frozen
class Bugs:
    """Bugs by id, as tasks and as training rows {instruction, response, task_id, group}."""

    tasks: Mapping[str, Task]
    rows: Mapping[str, Mapping[str, Any]]

    def only(self, names: Iterable[str]) -> Bugs:
        """Some of them."""
        names = list(names)
        return Bugs({name: self.tasks[name] for name in names}, {name: self.rows[name] for name in names})


@frozen
class Data:
    """What all rounds stand on.

    Attributes:
        pool: bugs to ask about, none in a function that is held out.
        held: bugs that decide.
        trained: files of the rows that the first training trained on, by data set, with the share of each in a replay.
        watched: files of rows held out, by data set.
        unread: bugs of the pool in functions held out, which were left out.
    """

    pool: Bugs
    held: Bugs
    trained: Mapping[str, tuple[Path, float]]
    watched: Mapping[str, Path]
    unread: int


def make_data(folder: Folder, recipes: Recipes, first: Pipeline, options: Improve) -> Data:
    """The data, read from the folder where it was made before.

    Raises:
        InputError: a bug held out has no task.
    """
    place = folder.place / "data"
    if not place.exists():
        _make(place, folder, recipes, first, options)
    facts = read_json(place / "data.json")
    held = _bugs(place / "held.jsonl", place / facts["held_tasks"])
    names = sorted(held.tasks)
    if options.keep.bugs is not None and len(names) > options.keep.bugs:
        names = random.Random(f"{first.recipe.seed} held").sample(names, options.keep.bugs)  # noqa: S311 - a draw
    return Data(
        _bugs(place / "pool.jsonl", folder.place / facts["tasks"]),
        held.only([name for name in held.tasks if name in set(names)]),
        {name: (place / file, share) for name, (file, share) in facts["trained"].items()},
        {name: place / file for name, file in facts["watched"].items()}, facts["unread"],
    )  # fmt: skip


def _make(place: Path, folder: Folder, recipes: Recipes, first: Pipeline, options: Improve) -> None:
    own, at = set_of_bugs(first)
    source: Any = own.recipe.dataset
    name = "tasks.jsonl" if getattr(source, "on", "today") == "then" else "tasks"
    trained, held = _rows(first)
    named = BUGS if len(at) == 1 else first.recipe.sets[int(at[1])].name
    tasks = next(path for path in (source.tasks_out, first.run.folder / name) if path is not None)
    bugs = recipes.bugs(options, at, folder.place / name)
    asked = set_of_bugs(bugs)[0].load_rows()
    held_out = {_function(row) for row in held[named]}
    pool = list(iter_rows(asked))
    kept = [row for row in pool if _function(row) not in held_out]
    if not kept:
        raise InputError("all bugs are in functions that are held out", where="improve.bugs",
                         todo="raise improve.bugs.count, or hold out fewer")  # fmt: skip
    shares = {one.name: one.share for one in first.recipe.sets if not one.watched}
    with atomic_output(place) as fresh, wrap_os_errors(place):
        fresh.mkdir(parents=True)
        if tasks.is_dir():
            shutil.copytree(tasks, fresh / f"held-{name}")
        else:
            shutil.copyfile(tasks, fresh / f"held-{name}")
        write_rows(fresh / "pool.jsonl", kept)
        write_rows(fresh / "held.jsonl", held[named])
        for number, rows in enumerate(trained.values()):
            write_rows(fresh / f"trained-{number}.jsonl", rows)
        for number, rows in enumerate(held.values()):
            write_rows(fresh / f"watched-{number}.jsonl", rows)
        write_json(fresh / "data.json", {
            "tasks": name, "held_tasks": f"held-{name}", "unread": len(pool) - len(kept),
            "trained": {key: [f"trained-{number}.jsonl", _share(shares.get(key), rows)]
                        for number, (key, rows) in enumerate(trained.items())},
            "watched": {key: f"watched-{number}.jsonl" for number, (key, rows) in enumerate(held.items()) if rows},
        })  # fmt: skip


def _share(written: float | None, rows: list[Any]) -> float:
    """A set's part of a replay: its share in the recipe, else what it has of the rows."""
    return float(len(rows)) if written is None else written


def _rows(first: Pipeline) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Rows to train on and rows held out, by data set; one that is alone is called `bugs`."""
    if not first.recipe.sets:
        train, held = first.split_rows(first.load_rows())
        return {BUGS: list(iter_rows(train))}, {BUGS: list(iter_rows(held)) if held is not None else []}
    trained, held_rows = first.split_sets(first.load_sets())
    return ({name: list(iter_rows(rows)) for name, rows in trained.items()},
            {name: list(iter_rows(rows)) for name, rows in held_rows.items()})  # fmt: skip


def set_of_bugs(pipeline: Pipeline) -> tuple[Pipeline, tuple[str | int, ...]]:
    """The pipeline as if its bugs were its only data set, and their place in the recipe."""
    for number, one in enumerate(pipeline.recipe.sets):
        if not one.watched and hasattr(one.source, "tasks_out"):
            return pipeline.of_set(one), ("dataset", number)
    return pipeline, ("dataset",)


def _function(row: Mapping[str, Any]) -> str:
    """What is held out whole: the last level of the row's group."""
    group = row["group"]
    return str(group[-1] if isinstance(group, list | tuple) else group)


def _bugs(rows: Path, tasks: Path) -> Bugs:
    told = {str(row["task_id"]): row for row in read_rows(rows)}
    found = {one.id: one for one in read_tasks(tasks) if isinstance(one, Task)}
    if missing := [name for name in told if name not in found]:
        raise InputError(f"has no task {missing[0]}, which a row is about", where=tasks,
                         todo="begin anew with --fresh")  # fmt: skip
    return Bugs({name: found[name] for name in told}, told)
