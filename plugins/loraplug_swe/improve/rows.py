"""Judged answers as rows to train on: those that passed, and pairs of one that passed and one that failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

from loraplug_swe.evaluation.results import Result
from loraplug_swe.improve.options import Rows

_FAILED = ("applied", "invalid")  # what is flagged or void earns nothing, neither way


@frozen
class Made:
    """Rows of a round.

    Attributes:
        answers: {instruction, response, task_id, group} of answers that passed.
        gold: the same, of bugs that no answer solved, with the answer that takes the bug out.
        pairs: {prompt, chosen, rejected} as lists of messages, with task_id and group.
        counts: answers that passed; and of these left out, by reason.
    """

    answers: list[dict[str, Any]]
    gold: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    counts: dict[str, int]


def make_rows(results: Iterable[Result], told: Mapping[str, Mapping[str, Any]], wanted: Rows) -> Made:
    """The rows of a round, the same whatever the order of its results.

    An answer that was applied with leniency solves its bug and is no row, as the slip in its format would be learnt;
    neither is one that was cut off. Of several that change the code in the same way the first counts.

    Args:
        results: of one model.
        told: the training row of each bug, {instruction, response, task_id, group}.
    """
    by_task: dict[str, list[Result]] = {}
    for one in sorted(results, key=lambda one: one.sample):
        by_task.setdefault(one.task, []).append(one)
    made = Made([], [], [], {"passed": 0, "cut off or lenient": 0, "like another": 0, "more than per_bug": 0})
    for task in (name for name in told if name in by_task):
        row = told[task]
        passed = [one for one in by_task[task] if one.status == "resolved"]
        kept = _distinct(passed, made.counts, wanted.per_bug)
        made.answers.extend({**row, "response": _line(one.answer)} for one in kept)
        if not passed and wanted.gold == "unsolved":
            made.gold.append(dict(row))
        good = [_line(one.answer) for one in kept] or ([] if passed or wanted.gold == "never" else [row["response"]])
        bad = list(dict.fromkeys(one.answer for one in by_task[task] if one.status in _FAILED and one.answer.strip()))
        count = min(wanted.pairs_per_bug, len(bad)) if good else 0
        made.pairs.extend(_pair(row, good[at % len(good)], bad[at]) for at in range(count))
    return made


def _distinct(passed: Sequence[Result], counts: dict[str, int], most: int) -> list[Result]:
    kept: list[Result] = []
    for one in passed:
        counts["passed"] += 1
        if not one.exact or one.finish not in ("stop", "given"):
            counts["cut off or lenient"] += 1
        elif one.diff in {other.diff for other in kept}:
            counts["like another"] += 1
        elif len(kept) == most:
            counts["more than per_bug"] += 1
        else:
            kept.append(one)
    return kept


def _line(answer: str) -> str:
    """As the answers that were trained on first end."""
    return answer.rstrip("\n") + "\n"


def _pair(row: Mapping[str, Any], good: str, bad: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row["instruction"]}],
        "chosen": [{"role": "assistant", "content": good}],
        "rejected": [{"role": "assistant", "content": bad}],
        "task_id": row["task_id"],
        "group": row["group"],
    }
