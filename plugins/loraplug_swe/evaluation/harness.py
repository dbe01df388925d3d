"""Run tasks of lm-eval-harness for a model and its base."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from loraplug import InputError, Run, atomic_output, echo, exclusive_lock, wrap_os_errors
from loraplug_swe.evaluation.evaluate import run_name, speakers, weights
from loraplug_swe.evaluation.plan import EvalOptions

if TYPE_CHECKING:
    from loraplug import App


def run_harness(app: App, wanted: EvalOptions, names: str, as_json: bool) -> None:
    """`eval --harness`: metrics as the harness computes them, by task and model.

    Raises:
        InputError: the harness is not installed, or has no such task.
    """
    if find_spec("lm_eval") is None:
        raise InputError("needs lm-eval, which is not installed", where="--harness",
                         todo='pip install "lm-eval>=0.4.13"')  # fmt: skip
    run = Run(name=run_name(wanted), seed=wanted.seed, reporter=app.reporter())
    tasks = [name.strip() for name in names.split(",") if name.strip()]
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if wanted.harness_path is None else str(wanted.harness_path))
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown or not tasks:
        raise InputError(f"lm-eval has no task {unknown[0] if unknown else 'of no name'}", where="--harness",
                         todo="see `lm_eval --tasks list`; --harness-path names a folder of further ones")  # fmt: skip
    out = wanted.out or run.outputs / "evals" / f"{run.name}-harness"
    with exclusive_lock(out, str(out)):
        found = {label: _evaluated(speaker, tasks, manager, wanted) for label, speaker in speakers(app, wanted, run)}
        told = {
            "models": found, "tasks": tasks, "limit": wanted.limit, "seed": wanted.seed,
            "weights": weights(wanted.model), "base_weights": weights(wanted.base),
        }  # fmt: skip
        with atomic_output(out / "harness.json") as fresh, wrap_os_errors(out):
            fresh.write_text(json.dumps(told, indent=2, default=str) + "\n", encoding="utf-8")
    run.say(f"results in {out}")
    for line in [json.dumps(told, default=str)] if as_json else _lines(found):
        echo(line)


def _evaluated(speaker: Any, tasks: list[str], manager: Any, wanted: EvalOptions) -> Mapping[str, Mapping[str, Any]]:
    """Task to metric to value, as the harness names them. Tasks that run code of the model's are refused by it."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    with speaker.around():
        model = HFLM(pretrained=speaker.model, tokenizer=speaker.tokenizer, batch_size=wanted.batch,
                     device=str(speaker.model.device))  # fmt: skip
        done = simple_evaluate(model=model, tasks=tasks, task_manager=manager, limit=wanted.limit, log_samples=False,
                               random_seed=wanted.seed, numpy_random_seed=wanted.seed,
                               torch_random_seed=wanted.seed, fewshot_random_seed=wanted.seed)  # fmt: skip
    return {task: {key: value for key, value in metrics.items() if key != "alias"}
            for task, metrics in done["results"].items()}  # fmt: skip


def _lines(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    """A line for each task and metric, with the harness's standard error, models side by side."""
    models = list(found)
    yield f"{'task':32}{'metric':24}" + "".join(f"{model:>22}" for model in models)
    for task, metrics in found[models[0]].items():
        for key, value in metrics.items():
            metric, _, kind = key.partition(",")
            if not isinstance(value, int | float) or metric.endswith("_stderr") or not kind:
                continue
            cells = []
            for model in models:
                told = found[model][task]
                error = told.get(f"{metric}_stderr,{kind}")
                cells.append(f"{told[key]:.4f}" + (f" ± {error:.4f}" if isinstance(error, float) else ""))
            yield f"{task:32}{metric:24}" + "".join(f"{cell:>22}" for cell in cells)
