"""Makes rows from a path: checkout, baseline run, search for bugs, output."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict

from loraplug import InputError, LoraplugError, Run, atomic_output, exclusive_lock, wrap_os_errors
from loraplug_swe.mutation.candidates import chosen_kinds, find
from loraplug_swe.mutation.hunt import Bug, Hunt, HuntOptions
from loraplug_swe.mutation.language import BaselineRun, Language, Suite, environment, language
from loraplug_swe.mutation.survey import checked
from loraplug_swe.mutation.task import make_row, make_task, write_tasks
from loraplug_swe.sandbox.checkout import Staged, stage
from loraplug_swe.sandbox.limits import Limits
from loraplug_swe.sandbox.sandbox import Sandbox
from loraplug_swe.sandbox.scratch import scratch_folder

if TYPE_CHECKING:
    from loraplug_swe.history.source import SweHistorySource
    from loraplug_swe.mutation.source import SweBugsSource

_VERSION = 3  # of what the cache holds


def make(source: SweBugsSource, run: Run) -> Iterator[dict[str, Any]]:
    """Yield the rows of a source; the tasks are written first.

    Raises:
        InputError: the code is missing, or no bug was found.
        LoraplugError: the tests cannot be run.
    """
    tongue = language(source.language)
    if unfit := list(source.unfit_machines(run)):  # `loraplug data` asks no preflight
        raise InputError("; ".join(problem.message for problem in unfit), where=unfit[0].path)
    chosen_kinds(tongue, source.kinds)
    with scratch_folder(run.cache / "bugs") as scratch:
        staged = stage(source.path, source.revision, source.repo, source.tests_path, scratch)
        suite = tongue.suite(source.tests, source.test_args, source.python)
        place = run.cache / "bugs" / _key(source, staged)
        with exclusive_lock(place, f"{source.path} ({place.name})"):
            survey = _survey(source, staged, suite, place / "survey.json", run)
            bugs, texts = _hunt(source, staged, suite, tongue, survey, place / "journal.jsonl", run)
    tasks = [make_task(at, bug, texts[bug.candidate.path], staged, survey, tongue) for at, bug in enumerate(bugs, 1)]
    out = source.tasks_out or run.folder / "tasks"
    write_tasks(tasks, out)
    run.say(f"{len(tasks)} tasks in {out}")
    for number, (bug, task) in enumerate(zip(bugs, tasks, strict=True), 1):
        yield make_row(number, bug, task, texts[bug.candidate.path], tongue, source.context, source.edit)


def _hunt(
    source: SweBugsSource, staged: Staged, suite: Suite, tongue: Language, survey: BaselineRun, journal: Path, run: Run
) -> tuple[list[Bug], dict[str, str]]:
    found = find(staged.tree, tongue, survey, run, include=source.include, exclude=source.exclude,
                 kinds=chosen_kinds(tongue, source.kinds))  # fmt: skip
    if not found.functions:
        told = (
            ", ".join(f"{count} {reason}" for reason, count in found.left.items()) or "no file has a function that runs"
        )
        raise InputError(f"the tests run no function that a bug could be put into ({told})", where=source.path,
                         todo="check that the tests import the code of this folder, not an installed one")  # fmt: skip
    wanted = HuntOptions(source.count, source.per_function, source.max_failing, source.timeout,
                    run.seed if source.seed is None else source.seed, source.workers)  # fmt: skip
    hunt = Hunt(staged.tree, suite, survey, box_limits(source), journal, staged.tree.parent, source.roots,
                getattr(tongue, "controls", None))  # fmt: skip
    bugs = hunt.bugs(found, wanted, run)
    tried = sum(map(len, found.functions.values()))
    aside = Counter({reason: count for reason, count in hunt.tally.items() if reason != "bug"})
    told = ", ".join(f"{reason} {count}" for reason, count in aside.most_common())
    functions = len({bug.candidate.group for bug in bugs})
    summary = f"{len(bugs)} bugs in {functions} functions from {hunt.tally.total()} tries" + (
        f" (not kept: {told})" if told else ""
    )
    if not bugs:
        raise InputError(
            f"no bug was found: {summary}", where=source.path, todo="raise max_failing, or allow more kinds"
        )
    if len(bugs) < source.count:
        run.warn(f"{summary}; {source.count} were requested, and all {tried} candidates were tried: "
                 "raise per_function or max_failing, or leave out fewer files")  # fmt: skip
    else:
        run.say(summary)
    run.emit("metrics", step=0, **{f"bugs_{kind}": tally["bug"] for kind, tally in hunt.kinds.items()})
    return bugs, dict(found.texts)


def _survey(source: SweBugsSource, staged: Staged, suite: Suite, path: Path, run: Run) -> BaselineRun:
    """The survey of the tree, made once."""
    if path.exists():
        told = json.loads(path.read_text(encoding="utf-8"))
        told["lines"] = {name: {int(line): tests for line, tests in by.items()} for name, by in told["lines"].items()}
        survey = checked(BaselineRun(**told), staged.tree, source.path)
        _tell_left_out(survey, run)
        return survey
    run.say(f"running the tests of {source.path} twice, to see which lines each of them runs")
    with Sandbox(staged.tree, box_limits(source), home=staged.tree.parent, roots=source.roots) as box:
        try:
            survey = checked(suite.survey(box), staged.tree, source.path)
        except LoraplugError as error:
            if error.where in (None, str(box.source)):  # the copy, whose path says nothing to the user
                error.where = source.path
            raise
        gaps = box.gaps
    if gaps:
        run.warn(f"the code under test is not fully isolated: no separate {', '.join(gaps)}")
    _tell_left_out(survey, run)
    run.say(f"{len(survey.tests)} tests pass, in {sum(survey.tests.values()):.1f} s")
    with atomic_output(path) as fresh, wrap_os_errors(path):
        fresh.write_text(json.dumps(asdict(survey)), encoding="utf-8")
    return survey


def _tell_left_out(survey: BaselineRun, run: Run) -> None:
    if survey.flaky:
        run.warn(f"{len(survey.flaky)} tests are left out: their results differ between runs ({survey.flaky[0]}, ...)")
    if survey.failing:
        run.warn(
            f"{len(survey.failing)} tests are left out: they fail on the unchanged code ({survey.failing[0]}, ...)"
        )


def box_limits(source: SweBugsSource | SweHistorySource) -> Limits:
    """The sandbox's limits; tests of single bugs have their own time limit."""
    own = source.limits
    limits = Limits(own.suite_seconds, own.memory_mb, own.processes, own.file_mb, network=own.network,
                    disk_mb=own.disk_mb, output_mb=own.output_mb, weak=source.sandbox == "weak",
                    readable=source.readable, python=source.python)  # fmt: skip
    return environment(language(source.language), source.path, source.python).added(limits)


def _key(source: SweBugsSource, staged: Staged) -> str:
    """Names all that verdicts depend on."""
    told = [_VERSION, staged.digest, source.tests, source.roots, source.test_args,
            source.python or sys.prefix, sys.version,
            *filter(None, [environment(language(source.language), source.path, source.python).identity]),
            source.language, source.max_failing, source.timeout, asdict(source.limits), source.readable]  # fmt: skip
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:20]
