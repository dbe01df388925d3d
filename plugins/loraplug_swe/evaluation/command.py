"""`loraplug eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from loraplug import App

OWN = "its own"


@click.command(name="eval")
@click.argument("model", required=False)
@click.option("--tasks", type=click.Path(path_type=Path), help="Folder of task_<n>.json, or a .json or .jsonl file.")
@click.option("--repo", "repos", multiple=True, metavar="[OWNER/NAME=]PATH",
              help="The tasks' code: a git repository, a folder, or package:NAME.")  # fmt: skip
@click.option(
    "--recipe", type=click.Path(path_type=Path), help="Only the validation rows of this recipe, with its prompts."
)
@click.option("--set", "questions", type=click.Path(path_type=Path), metavar="FILE",
              help="General questions of a .jsonl file, in place of bugs.")  # fmt: skip
@click.option("--harness", metavar="TASK,...", help="Tasks of lm-eval-harness, in place of bugs.")
@click.option("--harness-path", type=click.Path(path_type=Path), metavar="FOLDER", help="Further tasks of the harness.")
@click.option(
    "--answers",
    type=click.Path(path_type=Path),
    help="Test the answers in these {task_id, answer} lines; needs no MODEL.",
)
@click.option("--base", is_flag=False, flag_value=OWN, metavar="[MODEL]",
              help="Evaluate the base too: the adapter's own, or this one.")  # fmt: skip
@click.option("--trust", is_flag=True, help="Trust MODEL's recipe lock and run Python code that comes with it.")
@click.option("--edit", type=click.Choice(["diff", "search-replace", "lines", "function"]),
              help="Format of the answers.")  # fmt: skip
@click.option(
    "--context", type=click.Choice(["function", "file", "none"]), help="How much of the code the prompt shows."
)
@click.option("--ids", metavar="0-99,205", help="Only the tasks with these numbers.")
@click.option("--limit", type=click.IntRange(1), help="At most this many tasks, drawn by the seed.")
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Answers per task, for pass@k.")
@click.option("--temperature", type=click.FloatRange(0, 10), help="Default: 0, or 0.8 with --samples.")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="Nucleus sampling: total probability of the tokens to draw from.",
)
@click.option("--max-tokens", type=click.IntRange(1), default=512, show_default=True, help="Longest answer.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Answers generated per batch.")
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True,
              help="Beam search with this many beams; uses the most likely answer that changes the code.")  # fmt: skip
@click.option("--turns", type=click.IntRange(1), default=1, show_default=True,
              help="Show the model the output of the tests and ask it again, up to this many times.")  # fmt: skip
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=42,
    show_default=True,
    help="Seed of the sampling and of --limit.",
)
@click.option("--test-command", metavar="COMMAND", help="Run this instead of pytest; {tests} is replaced by test ids.")
@click.option("--test-arg", "test_args", multiple=True, metavar="WORD", help="Additional option for pytest.")
@click.option("--tests-path", type=click.Path(path_type=Path), help="Folder of tests outside the code.")
@click.option("--python", default="", metavar="PATH", help="Python interpreter with the dependencies of the tests.")
@click.option("--suite", type=click.Choice(["all", "related"]), default="all", show_default=True,
              help="Tests that must pass for a fix to count.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True,
              help="Seconds added to the time limit of tests, six times their usual duration.")  # fmt: skip
@click.option("--memory-mb", type=click.IntRange(64),
              help="Memory limit of the tests, in MiB. Default: limits.memory_mb of the recipe, or 2048.")  # fmt: skip
@click.option("--hidden-tests", type=click.FloatRange(0, min_open=True), metavar="SHARE|COUNT",
              help="Hide some failing tests from the prompt; all must pass.")  # fmt: skip
@click.option("--readable", multiple=True, metavar="PATH", help="Further file or folder that the tests may read.")
@click.option("--sandbox", type=click.Choice(["strict", "weak"]),
              help="weak: run tests even where the system has no sandbox.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results; default: outputs/evals/<name>.")
@click.option("--fresh", is_flag=True, help="Discard earlier results.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--brief", is_flag=True, help="Print one fixed bug and a single line instead of the table.")
@click.option("--html", "page", type=click.Path(path_type=Path), help="Write the report with every case to this page.")
@click.pass_obj
def evaluate(app: App, /, as_json: bool, brief: bool, page: Path | None, **given: Any) -> None:
    """Evaluate MODEL on bugs (its answers are applied and tested in a sandbox), or on general questions with --set.

    MODEL is an adapter or merged folder, owner/name on the hub, a .gguf file, package:NAME/FILE.gguf, or the URL of a
    server with OpenAI's API (append #NAME to choose one of its models). LORAPLUG_API_KEY is sent to servers.
    """
    from loraplug_swe.evaluation.evaluate import run_eval
    from loraplug_swe.evaluation.plan import EvalOptions

    run_eval(app, EvalOptions(**given), as_json, brief, page)
