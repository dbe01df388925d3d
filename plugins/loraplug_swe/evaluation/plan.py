"""The plan of an evaluation, from options, recipe and lock."""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from attrs import field, frozen

from loraplug import Formatter, InputError, Run, Workers, lock_beside
from loraplug_swe.edits.shared import Format
from loraplug_swe.evaluation.bench import Checking
from loraplug_swe.evaluation.cases import PromptOptions
from loraplug_swe.evaluation.generator import Sampling
from loraplug_swe.evaluation.reading import Task, read_tasks
from loraplug_swe.mutation.options import BoxLimits
from loraplug_swe.mutation.prompts import Context
from loraplug_swe.sandbox.limits import Limits

if TYPE_CHECKING:
    from loraplug import App

_SPAN = re.compile(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?")
_OF_THE_CODE = {"path": None, "tests_path": None, "test_args": [], "roots": ["src", "."], "tests": []}
"""What a lock may say of the code under test, with the defaults."""
_SUITE_SECONDS = 900.0  # for the suite on the tree without the bug


@frozen
class EvalOptions:
    """The command's options; see its help."""

    model: str | None
    tasks: Path | None
    repos: tuple[str, ...]
    recipe: Path | None
    answers: Path | None
    base: str | None
    trust: bool
    edit: Any
    context: Any
    ids: str | None
    limit: int | None
    samples: int
    temperature: float | None
    top_p: float
    max_tokens: int
    batch: int
    beams: int
    seed: int
    test_command: str | None
    test_args: tuple[str, ...]
    tests_path: Path | None
    python: str
    suite: str
    timeout: float
    memory_mb: int | None
    hidden_tests: float | None
    readable: tuple[str, ...]
    sandbox: str | None
    out: Path | None
    fresh: bool
    questions: Path | None = None
    turns: int = 1
    harness: str | None = None
    harness_path: Path | None = None

    @property
    def sampling(self) -> Sampling:
        """The sampling parameters."""
        temperature = self.temperature if self.temperature is not None else 0.8 if self.samples > 1 else 0.0
        if self.samples > 1 and temperature == 0:
            raise InputError("all answers to a task are the same at temperature 0", where="--samples",
                             todo="raise --temperature, or leave --samples out")  # fmt: skip
        if self.beams > 1 and (self.samples > 1 or temperature > 0):
            raise InputError("beams are for the one likeliest answer", where="--beams",
                             todo="leave --samples and --temperature out, or --beams")  # fmt: skip
        return Sampling(temperature, self.top_p, self.max_tokens, self.samples, self.batch, self.seed, self.beams)


@frozen
class Plan:
    """The tasks to evaluate, how their prompts are written, the recipe's rows for them, by task id, and who judges."""

    tasks: Sequence[Task]
    asked: PromptOptions
    formatter: Formatter
    repos: Mapping[str, str]
    tests_path: Path | None
    checking: Checking
    rows: Any = None
    broken: Sequence[InputError] = ()
    workers: Workers = field(factory=Workers)


def formatter_of(app: App, wanted: EvalOptions) -> Formatter:
    """The recipe's formatter, else the chat template's."""
    if wanted.recipe is not None:
        return app.pipeline(wanted.recipe).recipe.formatter
    made: Any = app.registry.find("formatter", "chat-template")()
    return made  # type: ignore[no-any-return]


def limits_of(wanted: EvalOptions) -> Limits:
    """Limits for code that belongs to no repository."""
    return Limits(memory_mb=wanted.memory_mb or BoxLimits().memory_mb, weak=wanted.sandbox == "weak",
                  readable=wanted.readable, python=wanted.python)  # fmt: skip


def make_plan(app: App, wanted: EvalOptions, run: Run) -> Plan:
    """Tasks and prompt options: from the command's options, else the recipe, else the lock beside the model."""
    lock, kept_back = _lock(wanted)
    formatter: Any = app.registry.find("formatter", "chat-template")()
    table: Mapping[str, Any] = _dataset(lock)
    workers, rows, place, folder = Workers(), None, wanted.tasks, Path(str(lock.get("lock", {}).get("folder", ".")))
    if wanted.recipe is not None:
        pipeline = _of_tasks(app.pipeline(wanted.recipe))
        workers = pipeline.run.workers
        _, rows = pipeline.split_rows(pipeline.load_rows())
        if rows is None:
            todo = "write a [validation] table, as in the training; or give --tasks alone"
            raise InputError("has no validation rows", where=wanted.recipe, todo=todo)
        formatter, source, folder = pipeline.recipe.formatter, pipeline.recipe.dataset, pipeline.recipe.folder
        names = ("edit", "context", "path", "tests_path", "tasks_out", "tasks", "test_args", "python", "roots",
                 "tests", "readable", "sandbox")  # fmt: skip
        told = {name: value for name in names if (value := getattr(source, name, None))}
        table = {"use": source.name, **told, "limits": {"memory_mb": _memory(source)}}
        place = place or table.get("tasks_out") or table.get("tasks") or pipeline.run.folder / "tasks"
    elif lock.get("formatter", {}).get("use", "chat-template") != "chat-template":
        run.warn(f"the model was trained with the formatter {lock['formatter']['use']}; its prompts use chat-template; "
                 "--recipe uses the recipe's formatter")  # fmt: skip
    if place is None:
        raise InputError("no tasks", where="--tasks", todo="name a folder of task_<n>.json, or a file of them")
    read = read_tasks(Path(place))
    tasks = [one for one in read if isinstance(one, Task)]
    if len({one.id for one in tasks}) < len(tasks):
        raise InputError("two tasks have the same id", where=place, todo="give each its own task_id")
    if rows is not None:
        held = set(map(str, rows["task_id"])) if "task_id" in rows.column_names else set()
        tasks = [one for one in tasks if one.id in held]
        if not tasks:
            raise InputError("no validation row belongs to one of the tasks", where=place,
                             todo="name the recipe's own tasks with --tasks")  # fmt: skip
    if wanted.ids is not None:
        numbers = _numbers(wanted.ids)
        tasks = [one for one in tasks if one.number in numbers]
    if wanted.limit is not None and len(tasks) > wanted.limit:
        kept = set(random.Random(wanted.seed).sample(range(len(tasks)), wanted.limit))  # noqa: S311 - a draw
        tasks = [one for at, one in enumerate(tasks) if at in kept]
    if not tasks:
        raise InputError("no task is left", where="--ids", todo="choose other numbers")
    hidden = wanted.hidden_tests or 0.0
    if hidden > 1 and hidden != int(hidden):
        raise InputError(f"{hidden:g} is not a number of tests", where="--hidden-tests",
                         todo="give a share below 1, such as 0.5, or a whole number")  # fmt: skip
    asked = PromptOptions(wanted.edit or table.get("edit"), wanted.context or table.get("context"), hidden, wanted.seed)
    ours = table if table.get("use", "swe-bugs") == "swe-bugs" else {}
    own = ours if wanted.recipe is not None else {}  # what a lock beside somebody's model may not decide
    elsewhere = ours.get("tests_path")
    memory = wanted.memory_mb or ours.get("limits", {}).get("memory_mb")
    checking = Checking(
        tuple(shlex.split(wanted.test_command)) if wanted.test_command else None,
        wanted.test_args or tuple(ours.get("test_args", ())), wanted.python or own.get("python", ""),
        wanted.timeout, tuple(ours.get("roots", ("src", "."))),
        Limits(seconds=_SUITE_SECONDS, memory_mb=memory or BoxLimits().memory_mb,
               weak=(wanted.sandbox or own.get("sandbox")) == "weak",
               readable=wanted.readable or tuple(own.get("readable", ())),
               python=wanted.python or own.get("python", "")), tuple(ours.get("tests", ())),
    )  # fmt: skip
    if kept_back and wanted.recipe is None:
        run.warn(kept_back)
    return Plan(
        tasks, asked, formatter, _repos(wanted.repos, ours.get("path"), folder),
        wanted.tests_path or (folder / elsewhere if elsewhere else None), checking, rows,
        [one for one in read if isinstance(one, InputError)], workers,
    )  # fmt: skip


def _memory(source: Any) -> int | None:
    return getattr(getattr(source, "limits", None), "memory_mb", None)


def _repos(given: Sequence[str], trained_on: Any, folder: Path) -> dict[str, str]:
    """Places of code by owner/name; the one that the model was trained on where none is given."""
    repos: dict[str, str] = {}
    for word in given:
        name, sign, path = word.partition("=")
        named = bool(sign) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None
        repos[name.lower() if named else ""] = path if named else word
    if not repos and trained_on:
        repos[""] = str(trained_on) if str(trained_on).startswith("package:") else str(folder / str(trained_on))
    if not repos:
        raise InputError("no code to fix", where="--repo", todo="name the git repository or folder of the tasks")
    return repos


def _of_tasks(pipeline: Any) -> Any:
    """Of a recipe with several data sets what is of the one with tasks, else of the first that is trained on."""
    sets = [one for one in pipeline.recipe.sets if not one.watched]
    own = [one for one in sets if one.source.name == "swe-bugs"] or sets
    return pipeline.of_set(own[0]) if own else pipeline


def _dataset(lock: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table of the data set with tasks, as `_of_tasks` chooses it."""
    told = lock.get("dataset")
    if not isinstance(told, list):
        return told if isinstance(told, dict) else {}
    tables = [one for one in told if isinstance(one, dict) and one.get("share") != 0]
    return next((one for one in tables if one.get("use") == "swe-bugs"), tables[0] if tables else {})


def _lock(wanted: EvalOptions) -> tuple[Mapping[str, Any], str]:
    """The recipe lock beside a model, and words on what is not taken from it, as somebody else wrote it."""
    lock = None if wanted.model is None else lock_beside(wanted.model)
    if lock is None or lock.own or wanted.trust:
        return {} if lock is None else lock.table, ""
    dataset, formatter = _dataset(lock.table), _table(lock.table, "formatter")
    choices = {"edit": get_args(Format), "context": get_args(Context)}
    kept = {name: dataset[name] for name, known in choices.items() if dataset.get(name) in known}
    said = {"path": wanted.repos, "tests_path": wanted.tests_path, "test_args": wanted.test_args}
    more = [key for key, usual in _OF_THE_CODE.items() if not said.get(key) and dataset.get(key, usual) != usual]
    keys = ", ".join(f"dataset.{key}" for key in more)
    told = (
        f"{lock.path}: this lock was not written by a run of yours, so its {keys} is not used; give it as an option, "
        "or accept the whole lock with --trust"
    )
    return {"dataset": kept, "formatter": {"use": str(formatter.get("use", "chat-template"))}}, told if more else ""


def _table(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def _numbers(text: str) -> set[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        match = _SPAN.fullmatch(part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"{part.strip()!r} is not a number or a span", where="--ids", todo='write "0-99,205"')
        numbers |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return numbers
