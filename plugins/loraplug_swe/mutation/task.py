"""Bugs as SWE-SYNTH tasks, and as training rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loraplug import InputError, atomic_output, wrap_os_errors
from loraplug_swe.edits import Applied, Format, apply, render, unified_diff
from loraplug_swe.mutation.hunt import Bug
from loraplug_swe.mutation.language import BaselineRun, Language
from loraplug_swe.mutation.problem_statement import problem_statement
from loraplug_swe.mutation.prompts import Context, ask
from loraplug_swe.sandbox.checkout import Staged

METHOD = (
    "buggy_tree: the related tests with the bug in; buggy_tree_alone: those that failed, run again without the others, "
    "and failing in the same way; fixed_tree: these without the bug; suite: all tests without it, in two runs"
)


def make_task(
    number: int, bug: Bug, text: str, staged: Staged, survey: BaselineRun, language: Language
) -> dict[str, Any]:
    """The task for one bug in the file with the text `text`; `base_commit` is the tree without the bug."""
    one, mutation = bug.candidate, bug.candidate.mutation
    names = list(survey.tests)
    related = [names[at] for at in one.tests]
    targets = [failure.test for failure in bug.failures]
    return {
        "source": {
            "dataset": "swe-bugs",
            "swe_instance_id": f"{staged.repo.replace('/', '__')}-{number}",
            "repo": staged.repo,
            "base_commit": staged.commit,
        },
        "bug": {
            "patch": unified_diff(one.path, text, mutation.apply(text)),
            "bug_types": [mutation.kind],
            "description": f"{one.path}, line {text.count(chr(10), 0, mutation.start) + 1}: {mutation.note}.",
            "problem_statement": problem_statement(bug.failures, language.name),
            "target_tests": targets,
        },
        "original": {"gold_patch": "", "problem_statement": "", "all_tests": names},
        "generation": {
            "mode": "swe-bugs",
            "language": language.name,
            "file": one.path,
            "function": mutation.function,
            "kind": mutation.kind,
            "related_tests": related,
            "tree_digest": staged.digest,
        },
        "verification": {
            "verified": True,
            "method": METHOD,
            "buggy_tree": bug.ran.get("related") or {"failed": len(targets)},
            "buggy_tree_alone": bug.ran.get("alone") or {"failed": len(targets)},
            "fixed_tree": bug.ran.get("fixed") or {"passed": len(targets)},
            "suite": {"passed": len(names), "failed": len(survey.failing), "flaky": len(survey.flaky)},
        },
    }


def make_row(
    number: int, bug: Bug, task: Mapping[str, Any], text: str, language: Language, context: Context, edit: Format
) -> dict[str, Any]:
    """The training row of a task: {instruction, response, task_id, group}.

    Raises:
        ValueError: the answer cannot be written in the format.
    """
    one = bug.candidate
    broken = one.mutation.apply(text)
    target = (one.path, one.mutation.function)
    answer = render(one.path, broken, text, edit, language.functions, target)
    if apply(answer, {one.path: broken}, edit, target, language.functions) != Applied({one.path: text}):
        raise ValueError("the answer does not lead back")
    return {
        "instruction": ask(
            task["bug"]["problem_statement"], one.path, broken, one.mutation.function, language, context, edit
        ),
        "response": answer,
        "task_id": str(number),
        "group": [task["source"]["repo"].lower(), one.group],
    }


def write_tasks(tasks: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `task_<n>.json` from 1, replacing existing tasks.

    Raises:
        InputError: the folder has other files.
    """
    if folder.exists():
        foreign = [
            path.name for path in folder.iterdir() if not (path.name.startswith("task_") and path.suffix == ".json")
        ]
        if foreign:
            raise InputError(f"holds {foreign[0]}, which is no task", where=folder, todo="name an empty or new folder")
    with atomic_output(folder) as fresh, wrap_os_errors(folder):
        fresh.mkdir(parents=True)
        for number, task in enumerate(tasks, 1):
            text = json.dumps(task, indent=2, ensure_ascii=False) + "\n"
            (fresh / f"task_{number}.json").write_text(text, encoding="utf-8", newline="\n")
