"""`loraplug eval --turns`: what a model is told of its answer, and its answers after that."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from loraplug_swe.evaluation.cases import Case
from loraplug_swe.evaluation.generator import Completion, Sampling
from loraplug_swe.evaluation.reading import Task
from loraplug_swe.evaluation.results import Result, last_turns, resolved_by_turn
from loraplug_swe.evaluation.turns import answer_again, feedback, may_go_on

TASK = Task("1", 1, "local/sums", "", "", "", "fails", ("t.py::test_a", "t.py::test_b"))


def case(**more: Any) -> Case:
    """A case of the task."""
    return Case(TASK, "fix it", "lines", {}, None, 0.1, None, **more)


def result(turn: int, status: str, sample: int = 0, **more: Any) -> Result:
    """The result of a turn."""
    told = {
        "finish": "stop",
        "reason": "the failing tests still fail",
        "detail": "t.py::test_b: AssertionError: 3 == 4",
    }
    return Result(model="model", task="1", sample=sample, kind="", answer=f"answer {turn}", prompt_tokens=1, tokens=1,
                  seconds=0.1, status=status, turn=turn,
                  failing=["t.py::test_a", "t.py::test_b"], **(told | more))  # type: ignore[arg-type] # fmt: skip


def test_what_is_told_hides_what_is_held_back() -> None:
    """The failing tests and what they say; nothing of one that judges unseen."""
    told = feedback(case(), result(1, "applied"))
    assert "3 == 4" in told and "Failing: t.py::test_a, t.py::test_b" in told
    told = feedback(case(hidden=("t.py::test_b",)), result(1, "applied"))
    assert "test_b" not in told and "3 == 4" not in told and "Failing: t.py::test_a" in told
    assert feedback(case(), result(1, "invalid", reason="no-edit", detail="")).startswith(
        "That changes nothing (no-edit)"
    )
    assert [may_go_on(result(1, status)) for status in ("resolved", "applied", "invalid", "flagged", "void")] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert not may_go_on(result(1, "invalid", finish="prompt-too-long"))


def test_the_last_turn_counts() -> None:
    """An answer is what it came to; resolved within so many turns adds up."""
    results = [result(1, "applied"), result(2, "applied"), result(3, "resolved"), result(1, "resolved", 1)]
    assert [(one.sample, one.turn) for one in last_turns(results)] == [(0, 3), (1, 1)]
    assert resolved_by_turn(results, 3) == {"model": [1, 1, 2]}


class Echo:
    """Tells what it was asked."""

    def prompts(self, rows: Dataset, *_: Any) -> Any:
        """The beginnings of the messages."""
        return {row["task_id"]: [one["content"].partition("\n")[0] for one in row["messages"]] for row in rows}

    def answers(self, asked: Any, names: Any, done: Any, sampling: Sampling) -> Any:
        """See `AnswerGenerator.answers`."""
        for name in names:
            if (name, 0) not in done:
                yield name, 0, Completion(f"{asked[name]} by {sampling.seed}", "stop", 1, 1, 0.1)


def test_a_turn_follows_those_before_it() -> None:
    """Each sample has a talk of its own; what is right, or answered in this turn already, is not asked."""
    results = [
        result(1, "applied"), result(2, "invalid", reason="no-edit", detail=""), result(1, "applied", 1),
        result(2, "resolved", 1), result(1, "applied", 2), result(2, "applied", 2), result(3, "applied", 2),
    ]  # fmt: skip
    rows = Dataset.from_list([{"instruction": "fix it", "response": "x", "task_id": "1"}])
    given = (Echo(), rows, None, {"1": case()}, results, 3, Sampling(seed=7, samples=3), None)
    [(task, sample, said)] = list(answer_again(*given))  # type: ignore[arg-type]
    assert (task, sample) == ("1", 0) and said.text.endswith("by 10")
    first = "The tests do not pass with that: the failing tests still fail."
    second = "That changes nothing (no-edit)"
    assert said.text.startswith(f"['fix it', 'answer 1', '{first}', 'answer 2', '{second}") and "'x']" in said.text
