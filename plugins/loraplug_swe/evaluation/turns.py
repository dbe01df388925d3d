"""Further turns: the model sees the test output of its answer, and answers again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve

from loraplug import Formatter, InputError, Run
from loraplug_swe.evaluation.cases import Case
from loraplug_swe.evaluation.generator import Answering, Completion, Sampling
from loraplug_swe.evaluation.results import Result

if TYPE_CHECKING:
    from datasets import Dataset

_AGAIN = "Answer again, in the same form; the code is as it was at first."


def may_go_on(one: Result) -> bool:
    """Whether a result gets a further turn: not if it is resolved or tampers, or the context is full."""
    return one.status in ("applied", "invalid", "flagged") and one.finish != "prompt-too-long"


def check_rows(rows: Dataset, turns: int) -> None:
    """InputError where rows have no instruction that further turns could follow."""
    if turns > 1 and "instruction" not in rows.column_names:
        raise InputError("these rows have no instruction that further turns could follow", where="--turns",
                         todo="give --tasks without --recipe")  # fmt: skip


def answer_again(
    speaker: Answering, rows: Dataset, formatter: Formatter, cases: Mapping[str, Case],
    results: Sequence[Result], turn: int, sampling: Sampling, run: Run,
) -> Iterator[tuple[str, int, Completion]]:  # fmt: skip
    """Generate the missing answers of a turn from the turns before it: task id, sample number, answer.

    Args:
        rows: {instruction, task_id} and perhaps `system`.
        results: of this model, in all turns.
    """
    from datasets import Dataset

    told = {str(row["task_id"]): row for row in rows}
    by_answer: dict[tuple[str, int], dict[int, Result]] = {}
    for one in results:
        by_answer.setdefault((one.task, one.sample), {})[one.turn] = one
    before = {
        f"{task} {sample}": (task, sample, [turns[at] for at in range(1, turn)])
        for (task, sample), turns in sorted(by_answer.items())
        if turn - 1 in turns and may_go_on(turns[turn - 1])
    }
    if not before:
        return
    talks = [
        {"messages": _talk(told[task], cases[task], said), "task_id": name}
        for name, (task, _, said) in before.items()
    ]  # fmt: skip
    asked = speaker.prompts(Dataset.from_list(talks), formatter, run)
    done = {(name, 0) for name, (task, sample, _) in before.items() if turn in by_answer[task, sample]}
    again = evolve(sampling, samples=1, seed=(sampling.seed + turn) % 2**31)
    for name, _, said in speaker.answers(asked, list(before), done, again):
        task, sample, _ = before[name]
        yield task, sample, said


def _talk(row: Mapping[str, Any], case: Case, said: Sequence[Result]) -> list[dict[str, str]]:
    """The messages before the answer, and one in its place."""
    system = row.get("system")
    talk = [{"role": "system", "content": system}] if system else []
    talk.append({"role": "user", "content": row["instruction"]})
    for one in said:
        talk.append({"role": "assistant", "content": one.answer or "…"})
        talk.append({"role": "user", "content": feedback(case, one)})
    return [*talk, {"role": "assistant", "content": "x"}]


def feedback(case: Case, one: Result) -> str:
    """The message about an answer; it never mentions hidden tests."""
    if one.status == "invalid":
        return f"That changes nothing ({': '.join(filter(None, (one.reason, one.detail)))}). {_AGAIN}"
    if one.status == "flagged":
        return f"That only fits the tests. {_AGAIN}"
    names = {test.partition("[")[0].rpartition("::")[2] for test in case.hidden}
    detail = "" if any(name in one.detail for name in names) else one.detail
    failing = [test for test in one.failing if test not in case.hidden]
    parts = [f"The tests do not pass with that: {one.reason}."]
    parts += [detail] if detail else []
    parts += [f"Failing: {', '.join(failing)}"] if failing else []
    return "\n\n".join([*parts, _AGAIN])
