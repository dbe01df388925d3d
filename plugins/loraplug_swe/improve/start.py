"""From a recipe to its rounds: what is checked first, and what is told in the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict

from loraplug import InputError, Run, as_table, atomic_output, echo, exclusive_lock, wrap_os_errors
from loraplug_swe.evaluation.bench import Checking
from loraplug_swe.evaluation.cases import PromptOptions
from loraplug_swe.evaluation.workroom import Workroom
from loraplug_swe.improve.answers import Asking, Opener, opener
from loraplug_swe.improve.data import make_data, set_of_bugs
from loraplug_swe.improve.folder import Folder, write_json, write_rows
from loraplug_swe.improve.options import Improve
from loraplug_swe.improve.page import page
from loraplug_swe.improve.recipes import Recipes
from loraplug_swe.improve.report import difficulty, lines, report
from loraplug_swe.improve.rounds import Rounds
from loraplug_swe.improve.teaching import settled
from loraplug_swe.mutation.make import box_limits
from loraplug_swe.sandbox.sandbox import check_isolation
from loraplug_swe.sandbox.scratch import scratch_folder

if TYPE_CHECKING:
    from loraplug import App, Pipeline


def start(
    app: App, recipe: Path, settings: tuple[str, ...], fresh: bool, as_json: bool,
    opened: Callable[[Pipeline], Opener] | None = None,
) -> None:  # fmt: skip
    """The command.

    Args:
        opened: who answers, in place of the models themselves.

    Raises:
        InputError: something in the recipe does not fit, or the folder holds rounds of another one.
        LoraplugError: a stage failed.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("improve runs in one process", where="WORLD_SIZE", todo="start it without a launcher")
    recipes = Recipes(app, recipe, settings)
    first = recipes.first()
    options: Improve | None = first.recipe.tables.get("improve")
    if options is None:
        raise InputError("has no table [improve]", where=recipe, todo="write [improve], with rounds = 3 in it")
    options = _checked(recipes, first, options)
    run = first.run
    folder = Folder(run.outputs / "improve" / run.name)
    with exclusive_lock(folder.place, run.name):
        if fresh:
            _set_aside(folder, run)
        folder.settle(_settings(app, first, options))
        with folder.timed("round-0/train"):
            first.execute()
        with folder.timed("round-0/bugs"):
            data = make_data(folder, recipes, first, options)
        run.say(f"{len(data.pool.tasks)} bugs to ask about, {len(data.held.tasks)} held out; "
                f"{data.unread} are in functions held out, and not asked about")  # fmt: skip
        source: Any = set_of_bugs(first)[0].recipe.dataset
        checking = Checking(arguments=source.test_args, python=source.python, roots=source.roots,
                            limits=box_limits(source), tests=source.tests)  # fmt: skip
        tests_path = getattr(source, "tests_path", None)
        with (
            scratch_folder(run.cache / "evals") as scratch,
            Workroom({"": source.path}, tests_path, checking, scratch, True) as room,
        ):
            make = opened or (lambda pipeline: opener(app.registry, pipeline.recipe.formatter, run))
            asked = PromptOptions(getattr(source, "edit", None), getattr(source, "context", None))
            asking = Asking(room, make(first), run, asked)
            rounds = Rounds(folder, recipes, options, first, data, asking, run)
            why = rounds.work(after=lambda: _tell(rounds, ""))
        told = _tell(rounds, why)
    run.say(f"report in {folder.place / 'report.html'}")
    if as_json:
        echo(json.dumps(told))
        return
    for line in lines(told):
        echo(line)
    adapter = run.outputs / "adapters" / (run.name if not rounds.best else f"{run.name}-round-{rounds.best}")
    shown = adapter.relative_to(Path.cwd()) if adapter.is_relative_to(Path.cwd()) else adapter
    echo(f"\nNext: loraplug export {shown} --to merged")


def _checked(recipes: Recipes, first: Pipeline, options: Improve) -> Improve:
    """What would stop the rounds, before the first training; the options, with what follows from the trainer."""
    first.preflight("exporter")
    trial = recipes.round(options, f"{first.run.name}-round-1", Path("adapter"), {"answers": Path("answers.jsonl")}, {})
    options = settled(options, trial.recipe.trainer)
    own, at = set_of_bugs(first)
    recipes.bugs(options, at, Path("tasks"))
    check_isolation(box_limits(own.recipe.dataset))  # type: ignore[arg-type]
    return options


def _settings(app: App, first: Pipeline, options: Improve) -> dict[str, Any]:
    """All that rounds depend on; how many there are may change."""
    table = as_table(first.recipe, app.registry)
    table.pop("exporter")
    chosen = asdict(options)
    for budget in ("rounds", "minutes"):
        chosen.pop(budget)
    return {"recipe": table, "improve": chosen}


def _set_aside(folder: Folder, run: Run) -> None:
    """Move what there is, with the runs of the rounds and their adapters, into a folder beside its own."""
    found = {path: path.name for path in folder.place.iterdir() if path.name != ".lock"}
    for kind in ("runs", "adapters"):
        rounds = (run.outputs / kind).glob(f"{escape(run.name)}-round-*")
        found |= {path: f"{kind}/{path.name}" for path in rounds if path.name.rpartition("-")[2].isdecimal()}
    if not found:
        return
    aside = folder.place.with_name(f"{folder.place.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
    with wrap_os_errors(folder.place):
        for path, name in found.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            path.rename(aside / name)
    run.say(f"kept what the rounds of this name had left: {aside}")


def _tell(rounds: Rounds, why: str) -> dict[str, Any]:
    """Write the report of the rounds so far."""
    told = report(rounds, why)
    place = rounds.folder.place
    write_json(place / "report.json", told)
    with atomic_output(place / "difficulty.jsonl") as fresh:
        write_rows(fresh, difficulty(rounds))
    with atomic_output(place / "report.html") as fresh, wrap_os_errors(place):
        fresh.write_text(page(told), encoding="utf-8")
    return told
