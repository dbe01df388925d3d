"""From tasks and a model to a report."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve

from loraplug import InputError, ModelReference, Run, atomic_output, echo, exclusive_lock, open_model, wrap_os_errors
from loraplug_serve.remote import is_url
from loraplug_swe.evaluation.brief import brief, headline
from loraplug_swe.evaluation.cases import Case, Unfit
from loraplug_swe.evaluation.command import OWN
from loraplug_swe.evaluation.generator import Answering, Completion, Sampling, load
from loraplug_swe.evaluation.judge import Verdict
from loraplug_swe.evaluation.judging import Judging, open_judging
from loraplug_swe.evaluation.page import page as html_page
from loraplug_swe.evaluation.plan import EvalOptions, Plan, make_plan
from loraplug_swe.evaluation.reading import read_answers
from loraplug_swe.evaluation.remote import server_generator
from loraplug_swe.evaluation.results import Journal, Result, last_turns, report, resolved_by_turn
from loraplug_swe.evaluation.table import lines
from loraplug_swe.evaluation.turns import answer_again, check_rows, may_go_on
from loraplug_swe.evaluation.workroom import Workroom
from loraplug_swe.sandbox.machine import Needs
from loraplug_swe.sandbox.scratch import scratch_folder

if TYPE_CHECKING:
    from loraplug import App


def run_eval(app: App, wanted: EvalOptions, as_json: bool, short: bool, page: Path | None) -> None:
    """The command.

    Raises:
        InputError: the options or inputs do not fit together.
    """
    if (wanted.model is None) == (wanted.answers is None):
        raise InputError("give either a MODEL or --answers FILE", todo="see loraplug eval --help")
    if wanted.turns > 1 and wanted.answers is not None:
        raise InputError("there is no model to ask again", where="--turns", todo="leave it out with --answers")
    if wanted.harness is not None:
        from loraplug_swe.evaluation.harness import run_harness

        run_harness(app, wanted, wanted.harness, as_json)
        return
    if wanted.questions is not None:
        from loraplug_swe.evaluation.general import run_set

        run_set(app, wanted, wanted.questions, as_json, short, page)
        return
    sampling = wanted.sampling
    run = Run(name=run_name(wanted), seed=wanted.seed, reporter=app.reporter())
    plan = make_plan(app, wanted, run)
    # what is wrong with it is said before any task is tried
    if wanted.answers is not None:
        read_answers(wanted.answers)
    else:
        find_models(app, wanted, run)
    limits = plan.checking.limits
    if lacking := list(plan.workers.preflight(Needs(plan.checking.python, limits.network, limits.weak))):
        raise InputError("; ".join(problem.message for problem in lacking), where=lacking[0].path)
    out = wanted.out or run.outputs / "evals" / run.name
    settings = _settings(wanted, plan, sampling)
    with exclusive_lock(out, str(out)), Journal(out / "results.jsonl", settings, wanted.fresh) as journal, \
            scratch_folder(run.cache / "evals") as scratch, \
            Workroom(plan.repos, plan.tests_path, plan.checking, scratch, wanted.suite == "all") as room, \
            open_judging(room, plan.workers, plan.tasks, spare=int(wanted.answers is None)) as judging:  # fmt: skip
        cases, unfit = _prepare(plan, judging, run)

        def may_be_given(name: str, answer: str) -> bool:
            return judging.usable(cases[name], answer)

        for model, turn, answers in _answers(app, wanted, plan, cases, journal, sampling, run, may_be_given):
            total = len(cases) * sampling.samples if wanted.answers is None and turn == 1 else None
            with run.progress(f"answers of {model}" + (f", turn {turn}" if turn > 1 else ""), total) as bar:
                resolved = 0
                for name, sample, said, verdict in judging.verdicts(answers, cases.__getitem__):
                    journal.add(make_result(model, name, cases[name].task.kind, sample, said, verdict, turn))
                    resolved += verdict.status == "resolved"
                    bar.advance(1, resolved=resolved)
        every = [one for one in journal.results if one.task in cases]
        results = last_turns(every)
    told = report(results, {name: case.task.kind for name, case in cases.items()}, sampling.samples)
    told |= {"unfit": unfit, "settings": settings}
    if wanted.turns > 1:
        told["turns"] = resolved_by_turn(every, wanted.turns)
    shown = {
        name: {"kind": case.task.kind, "instruction": case.instruction, "bug": case.task.bug_patch,
               "place": " ".join(part for part in (case.task.file, case.task.function) if part)}
        for name, case in cases.items()
    }  # fmt: skip
    leave(told, shown, cases, results, out, page, run, as_json, short)


def leave(
    told: Mapping[str, Any], shown: Mapping[str, Mapping[str, str]], cases: Mapping[str, Case],
    results: Sequence[Result], out: Path, page: Path | None, run: Run, as_json: bool, short: bool,
) -> None:  # fmt: skip
    """Print and write the report.

    Args:
        shown: for the page, for each task: `kind`, `place`, `instruction` and `bug`.
        cases: the prepared tasks, if they are bugs.
    """
    with atomic_output(out / "report.json") as fresh, wrap_os_errors(out):
        fresh.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if page is not None:
        with atomic_output(page) as fresh, wrap_os_errors(page):
            fresh.write_text(html_page(f"Bugs fixed: {run.name}", told, shown, results), encoding="utf-8")
        run.say(f"wrote {page}")
    run.say(f"results in {out}")
    if as_json:
        echo(json.dumps({**told, "cases": [asdict(one) for one in results]}))
    else:
        for line in brief(told, cases, results) if short and cases else [*lines(told), headline(told)]:
            echo(line)


def _prepare(plan: Plan, judging: Judging, run: Run) -> tuple[dict[str, Case], list[dict[str, str]]]:
    """Cases by task id, and the tasks that are none, with reasons."""
    cases: dict[str, Case] = {}
    unfit = [{"task": str(one.where), "reason": "not a bug task", "detail": one.what} for one in plan.broken]
    told, alone, gaps = _told(plan), list[str](), tuple[str, ...]()
    with run.progress("tasks", len(plan.tasks)) as bar:
        for case, more in judging.prepared(plan.tasks, plan.asked):
            task, gaps = case.task, more or gaps
            if isinstance(case, Unfit):
                unfit.append({"task": task.id, "reason": case.reason, "detail": case.detail})
            else:
                cases[task.id] = evolve(case, instruction=told[task.id]) if task.id in told else case
                if plan.asked.hidden and not case.hidden:
                    alone.append(task.id)
            bar.advance(1, fit=len(cases))
    if gaps:
        run.warn(f"the code under test is not fully isolated: no separate {', '.join(gaps)}")
    for one in unfit[:3]:
        run.warn(f"left out task {one['task']}: {one['reason']}: {one['detail']}")
    if not cases:
        raise InputError("no task can be answered here", where="--repo",
                         todo="check that the code is that of the tasks, and that its tests pass")  # fmt: skip
    if alone:
        run.warn(f"{len(alone)} tasks have only one failing test, so none is hidden from their prompts ({alone[0]})")
    if bare := [name for name, case in cases.items() if case.suite is None]:
        run.warn(f"{len(bare)} tasks are judged by their failing tests alone: their suite fails even without the bug")
    if loose := [name for name, case in cases.items() if not case.controlled]:
        run.warn(f"{len(loose)} tasks have no control tests: a verdict on them is easier to forge ({loose[0]}, ...)")
    return {task.id: cases[task.id] for task in plan.tasks if task.id in cases}, unfit


def _told(plan: Plan) -> dict[str, str]:
    """What the rows of a recipe ask, for the report; nothing where tests are held back, as they tell all of them."""
    if plan.rows is None or plan.asked.hidden or "instruction" not in plan.rows.column_names:
        return {}
    return {str(name): text for name, text in zip(plan.rows["task_id"], plan.rows["instruction"], strict=True)}


def _answers(
    app: App,
    wanted: EvalOptions,
    plan: Plan,
    cases: Mapping[str, Case],
    journal: Journal,
    sampling: Sampling,
    run: Run,
    may_be_given: Callable[[str, str], bool],
) -> Iterator[tuple[str, int, Iterator[tuple[str, int, Completion]]]]:
    """For each model and turn the answers that are lacking: task id, number of the sample, answer."""
    if wanted.answers is not None:
        given = read_answers(wanted.answers)
        if strange := [name for name in given if name not in {task.id for task in plan.tasks}]:
            run.warn(f"{len(strange)} answers are for tasks that are not evaluated ({strange[0]}, ...)")
        done = journal.done("answers")
        every = ((name, at, text) for name in cases for at, text in enumerate(given.get(name, [""])))
        lacking = (
            (name, at, Completion(text, "given", 0, 0, 0.0)) for name, at, text in every if (name, at) not in done
        )
        yield "answers", 1, lacking
        return
    names = list(cases)
    everything = {(name, sample) for name in names for sample in range(sampling.samples)}
    labels = ["model", "base"] if wanted.base is not None else ["model"]
    if all(everything <= journal.done(label) and not _next_turn(journal, label, cases, wanted) for label in labels):
        return  # nothing to load a model for
    rows = _rows(plan, cases)
    check_rows(rows, wanted.turns)
    for label, speaker in speakers(app, wanted, run):
        asked = speaker.prompts(rows, plan.formatter, run)
        yield label, 1, speaker.answers(asked, names, journal.done(label), sampling, may_be_given)
        while turn := _next_turn(journal, label, cases, wanted):
            mine = [one for one in journal.results if one.model == label and one.task in cases]
            yield label, turn, answer_again(speaker, rows, plan.formatter, cases, mine, turn, sampling, run)


def _next_turn(journal: Journal, label: str, cases: Mapping[str, Case], wanted: EvalOptions) -> int:
    """The first turn in which an answer of a model is lacking; 0 where there is none."""
    mine = [one for one in journal.results if one.model == label and one.task in cases]
    open_ = [one.turn for one in last_turns(mine) if one.turn < wanted.turns and may_go_on(one)]
    return min(open_) + 1 if open_ else 0


def find_models(app: App, wanted: EvalOptions, run: Run) -> None:
    """See that the models are there, without loading them; servers are asked later.

    Raises:
        InputError: one is not, or is no adapter, whose base could be known.
    """
    other = None if wanted.base in (None, OWN) else wanted.base
    if wanted.model is not None and not is_url(wanted.model):
        _opened(app, wanted, None if is_url(str(other)) else other).loader.base(run=run)
    if other is not None and not is_url(other):
        open_model(other, app.registry).loader.base(run=run)


def _opened(app: App, wanted: EvalOptions, other: str | None) -> ModelReference:
    opened = open_model(str(wanted.model), app.registry, other, wanted.trust)
    if opened.adapter is None and wanted.base == OWN:
        raise InputError(
            "is not an adapter, so it names no base model", where=wanted.model, todo="name one: --base MODEL"
        )
    return opened


def speakers(app: App, wanted: EvalOptions, run: Run) -> Iterator[tuple[str, Answering]]:
    """`model`, and `base` if requested, one after the other; either may be a URL."""
    other = None if wanted.base in (None, OWN) else wanted.base
    if is_url(str(wanted.model)) or is_url(str(other)):
        yield from _with_servers(app, wanted, other, run)
        return
    opened = _opened(app, wanted, other)
    loaded = load(opened, run, wanted.model, wanted.base is not None)
    yield from zip(("model", "base"), loaded, strict=False)
    if opened.adapter is None and other is not None:
        loaded.clear()
        yield "base", load(open_model(other, app.registry), run, other, False)[0]


def _with_servers(app: App, wanted: EvalOptions, other: str | None, run: Run) -> Iterator[tuple[str, Answering]]:
    if wanted.base == OWN:
        raise InputError("the base of a model at a URL is not known", where="--base", todo="name it: --base URL#NAME")
    # both are looked at before the first of them is asked
    servers = {one: server_generator(wanted, one) for one in (wanted.model, other) if one and is_url(one)}
    for label, name in (("model", wanted.model), ("base", other)):
        if name in servers:
            yield label, servers[name]
        elif name is not None:
            yield label, load(open_model(name, app.registry, None, wanted.trust), run, name, False)[0]


def _rows(plan: Plan, cases: Mapping[str, Case]) -> Any:
    """Rows whose beginnings are the prompts."""
    from datasets import Dataset

    if plan.rows is not None:
        chosen = plan.rows.select([at for at, name in enumerate(plan.rows["task_id"]) if str(name) in cases])
        if not plan.asked.hidden:
            return chosen
        if "instruction" not in chosen.column_names:
            raise InputError("these rows have no instruction that could leave tests out", where="--hidden-tests",
                             todo="give --tasks without --recipe")  # fmt: skip
        return chosen.map(lambda row: {"instruction": cases[str(row["task_id"])].instruction})
    return Dataset.from_list(
        [{"instruction": case.instruction, "response": "x", "task_id": name} for name, case in cases.items()]
    )


def make_result(
    model: str, task: str, kind: str, sample: int, said: Completion, verdict: Verdict, turn: int = 1
) -> Result:
    """Combine an answer and its verdict."""
    return Result.of(
        verdict, model=model, task=task, sample=sample, kind=kind, answer=said.text, finish=said.finish, turn=turn,
        prompt_tokens=said.prompt_tokens, tokens=said.tokens, seconds=round(said.seconds, 3),
    )  # fmt: skip


def _settings(wanted: EvalOptions, plan: Plan, sampling: Sampling) -> dict[str, Any]:
    """All that results depend on."""
    tasks = hashlib.sha256(json.dumps([asdict(task) for task in plan.tasks]).encode()).hexdigest()[:16]
    settings = {
        "model": wanted.model, "weights": weights(wanted.model), "base": wanted.base,
        "base_weights": weights(wanted.base), "tasks": tasks, "repos": dict(plan.repos), "edit": plan.asked.edit,
        "context": plan.asked.context, "recipe": None if wanted.recipe is None else str(wanted.recipe),
        "test_command": wanted.test_command, "test_args": list(plan.checking.arguments),
        "python": plan.checking.python, "roots": list(plan.checking.roots), "suite": wanted.suite,
        "tests": list(plan.checking.tests), "timeout": wanted.timeout, "memory_mb": plan.checking.limits.memory_mb,
        "hidden_tests": wanted.hidden_tests, "readable": list(plan.checking.limits.readable),
        "sandbox": "weak" if plan.checking.limits.weak else "strict",
    }  # fmt: skip
    if wanted.answers is not None:
        return settings | {"answers": hashlib.sha256(wanted.answers.read_bytes()).hexdigest()[:16]}
    return settings | {"sampling": asdict(sampling)} | ({"turns": wanted.turns} if wanted.turns > 1 else {})


def weights(model: str | None) -> str | None:
    """Identify the weights in a local folder: an adapter by its bytes, a whole model by file sizes and times."""
    folder = Path(model).expanduser() if model else Path()
    if not model or not folder.is_dir():
        return None
    adapter = folder / "adapter_model.safetensors"
    if adapter.is_file():
        with adapter.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def run_name(wanted: EvalOptions) -> str:
    """A name for the folder of results."""
    if wanted.answers is not None:
        return wanted.answers.stem
    path = Path(str(wanted.model).rstrip("/"))
    name = path.parent.name if path.name == "adapter" else path.name
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model"
