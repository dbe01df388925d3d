"""General questions for a model and its base, which show what the model has forgotten."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict

from loraplug import InputError, Run, exclusive_lock
from loraplug_swe.evaluation.evaluate import leave, make_result, run_name, speakers, weights
from loraplug_swe.evaluation.judge import Verdict
from loraplug_swe.evaluation.plan import EvalOptions, formatter_of, limits_of
from loraplug_swe.evaluation.questions import Question, checked, read_questions
from loraplug_swe.evaluation.results import Journal, report
from loraplug_swe.sandbox.sandbox import Sandbox, check_isolation
from loraplug_swe.sandbox.scratch import scratch_folder

if TYPE_CHECKING:
    from loraplug import App


def run_set(app: App, wanted: EvalOptions, place: Path, as_json: bool, short: bool, page: Path | None) -> None:
    """`eval --set`: answers to the questions of a file, by the model and its base.

    Raises:
        InputError: the options or inputs do not fit together.
    """
    of_bugs = {"--tasks": wanted.tasks, "--repo": wanted.repos, "--answers": wanted.answers, "--ids": wanted.ids,
               "--limit": wanted.limit, "--edit": wanted.edit, "--context": wanted.context,
               "--hidden-tests": wanted.hidden_tests, "--test-command": wanted.test_command,
               "--turns": wanted.turns > 1}  # fmt: skip
    if given := [name for name, value in of_bugs.items() if value]:
        raise InputError(
            f"only for bug tasks, which --set has none of: {', '.join(given)}",
            where="--set",
            todo="leave one of them out",
        )
    sampling = wanted.sampling
    run = Run(name=run_name(wanted), seed=wanted.seed, reporter=app.reporter())
    questions = {one.id: one for one in read_questions(place)}
    limits = limits_of(wanted)
    if any(one.way != "answer" for one in questions.values()):
        check_isolation(limits)
    out = wanted.out or run.outputs / "evals" / f"{run.name}-{place.stem}"
    settings = {
        "model": wanted.model, "weights": weights(wanted.model), "base": wanted.base,
        "base_weights": weights(wanted.base), "set": hashlib.sha256(place.read_bytes()).hexdigest()[:16],
        "recipe": None if wanted.recipe is None else str(wanted.recipe), "sampling": asdict(sampling),
    }  # fmt: skip
    with exclusive_lock(out, str(out)), Journal(out / "results.jsonl", settings, wanted.fresh) as journal, \
            scratch_folder(run.cache / "evals") as scratch:  # fmt: skip
        (scratch / "empty").mkdir()
        labels = ["model", "base"] if wanted.base is not None else ["model"]
        every = {(name, sample) for name in questions for sample in range(sampling.samples)}
        if not all(every <= journal.done(label) for label in labels):
            formatter = formatter_of(app, wanted)
            rows = _rows(list(questions.values()))
            with Sandbox(scratch / "empty", limits, home=scratch) as box:
                for label, speaker in speakers(app, wanted, run):
                    asked = speaker.prompts(rows, formatter, run)
                    with run.progress(f"answers of {label}", len(every)) as bar:
                        for name, sample, said in speaker.answers(
                            asked, list(questions), journal.done(label), sampling
                        ):
                            verdict = (
                                Verdict("invalid", said.finish, "the prompt leaves no room for an answer")
                                if said.finish == "prompt-too-long"
                                else checked(questions[name], said.text, box)
                            )
                            journal.add(make_result(label, name, questions[name].kind, sample, said, verdict))
                            bar.advance(1)
        results = [one for one in journal.results if one.task in questions]
    told = report(results, {name: one.kind for name, one in questions.items()}, sampling.samples)
    told |= {"unfit": [], "settings": settings}
    shown = {name: {"kind": one.kind, "place": "", "bug": "", "instruction": one.messages[-1]["content"]}
             for name, one in questions.items()}  # fmt: skip
    leave(told, shown, {}, results, out, page, run, as_json, short)


def _rows(questions: Sequence[Question]) -> Any:
    """Rows whose beginnings are the prompts."""
    from datasets import Dataset

    answer = {"role": "assistant", "content": "x"}
    return Dataset.from_list([
        {"messages": [*map(dict, one.messages), answer], "task_id": one.id} for one in questions
    ])  # fmt: skip
